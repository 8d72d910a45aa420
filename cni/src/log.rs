//! Log lines go to stderr, since stdout belongs to the caller's JSON parser; and nobody may be there to read them.

use std::io::{self, Write};

/// One line; whether it arrives changes nothing.
pub fn line(text: &str) {
    drop(writeln!(io::stderr(), "cadastre: {text}"));
}
