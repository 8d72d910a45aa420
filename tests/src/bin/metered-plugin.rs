//! Stands before an IPAM plugin in `make bench-burst`: runs the program `NAME.real` beside it, and appends what that took of
//! the CPU's time, in µs, to `NAME.usage`. The kernel counts the child alone, from its beginning.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

fn main() -> Result<ExitCode> {
    let me = env::current_exe()?;
    let real = me.with_extension("real");
    let ended =
        Command::new(&real).args(env::args_os().skip(1)).status().with_context(|| real.display().to_string())?;
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = (used.user_time() + used.system_time()).num_microseconds();
    // One write, whoever else writes.
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(me.with_extension("usage"))?
        .write_all(format!("{micros}\n").as_bytes())?;
    Ok(ExitCode::from(ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
