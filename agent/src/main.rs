//! The node half: address pools, journal, socket and status.
fn main() {}
