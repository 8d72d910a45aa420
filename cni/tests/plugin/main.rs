//! The real binary, called as a runtime calls it, against a scripted agent.
//!
//! Tests carry the letters of the conformance list in the docs where they are one of its rows: `p8_…` is row P8. What
//! the rows ask of addresses and state is the agent's and tested there; here is what a caller sees of the plugin.

// Helpers are no test functions, and a panic is how they fail a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod add;
mod answer;
mod asked;
mod away;
mod del;
mod local;
mod peer;
mod protocol;
mod run;
mod take_over;
mod verbs;
