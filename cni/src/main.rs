//! The program: everything is in the library, so that tests can reach it without a process for each call.

use std::process::ExitCode;

fn main() -> ExitCode {
    cadastre_cni::main()
}
