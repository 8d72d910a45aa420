//! The program: everything is in the library, so that tests can reach it without a process for each call.
//!
//! It has C's `main`: what std does before Rust's (a look at `/proc/self/maps`, a stack for the handler of stack overflows) is
//! a tenth of all the time that a pod waits for it (docs/decisions/0021). The two things of it that matter to us
//! are done here.

#![no_main]
#![expect(unsafe_code, reason = "C's main, and ignoring a signal")]

use std::ffi::{c_char, c_int};
use std::fs::File;
use std::os::fd::{AsRawFd as _, IntoRawFd as _};

#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    // SAFETY: no other thread runs, and nobody has set a handler.
    // A caller that no longer listens to stderr must not end us before a DEL is done.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    open_standard();
    c_int::from(!cadastre_cni::main())
}

/// A caller that closed one of the first three descriptors would have our log written to the agent's socket.
fn open_standard() {
    while let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        if null.as_raw_fd() > 2 {
            break;
        }
        let _stays_open = null.into_raw_fd();
    }
}
