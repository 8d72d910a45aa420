//! Log lines go to stderr, since stdout belongs to the caller's JSON parser; and nobody may be there to read them.

use std::io::{self, Write};

/// Set where thousands of calls are made in one process.
#[cfg(feature = "fuzzing")]
pub static SILENT: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// One line; whether it arrives changes nothing.
pub fn line(text: &str) {
    #[cfg(feature = "fuzzing")]
    if SILENT.load(std::sync::atomic::Ordering::Relaxed) {
        return;
    }
    drop(writeln!(io::stderr(), "cadastre: {text}"));
}
