//! The CNI IPAM plugin: reads, asks the agent, answers.
//!
//! ```text
//! environment ─┐                                    ┌─ result ──▶ stdout, exit 0
//!              ├─▶ call ──▶ act ──▶ agent ──▶ reply ┤
//! stdin ───────┘             ├── DEL, agent away ──▶ tombstone
//!                            └── ADD, new network ──▶ what host-local reserved ──▶ agent
//!                                                   └─ error ───▶ stdout, exit 1
//! ```
//!
//! A process for each call, so it does next to nothing: no clients, no state, no thread on the way of an ADD. Exactly one JSON value, or
//! nothing, is written to stdout; a second line there would make the interface plugin fail after the address is held.

mod act;
mod address;
mod agent;
mod answer;
mod args;
mod asked;
mod cache;
mod call;
mod environment;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod host_local;
mod log;
mod names;
mod netconf;
mod netns;
mod ranges;
mod regular;
mod resolver;
mod result;
mod route;
mod take_over;
mod tombstone;
mod version;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use cadastre_messages::code;
use serde_json::Value;

use act::Done;
use environment::{Environment, Variables, Verb};
use error::Error;

/// Longest configuration read: the largest that are known, of long conflists with cached results, have some 20 KiB.
const LONGEST_NETCONF: u64 = 1024 * 1024;

/// One call of the plugin, from environment and stdin to stdout. Whether it went well.
#[must_use]
pub fn main() -> bool {
    let (done, well) = match run() {
        Ok(done) => (done, true),
        Err(error) => (Done::said(error.render()), false),
    };
    match done.said.as_ref().map_or(Ok(()), print) {
        Ok(()) => well,
        Err(error) => {
            log::line(&format!("cannot write the answer to stdout: {error}"));
            done.take_back();
            false
        }
    }
}

fn run() -> Result<Done, Error> {
    let Some(environment) = Environment::parse(Variables::of_process())? else {
        log::line(&about());
        return Ok(Done::default());
    };
    if environment.verb == Verb::Version {
        return Ok(Done::said(version::supported()));
    }
    act::on(call::parse(&environment, &stdin()?)?)
}

fn about() -> String {
    let (release, versions) = (env!("CARGO_PKG_VERSION"), version::list());
    format!("CNI IPAM plugin {release}, called by interface plugins; speaks CNI {versions}")
}

/// Through a descriptor of its own: std's `Stdin` takes one that cannot be read for an empty one.
fn stdin() -> Result<Vec<u8>, Error> {
    let unreadable = |error: io::Error| {
        let remedy = "the caller has to pass the network configuration on stdin";
        Error::new(code::IO, format!("stdin cannot be read: {error}"), remedy)
    };
    let mut netconf = Vec::with_capacity(4096);
    let descriptor = io::stdin().as_fd().try_clone_to_owned().map_err(unreadable)?;
    File::from(descriptor).take(LONGEST_NETCONF + 1).read_to_end(&mut netconf).map_err(unreadable)?;
    if netconf.len() as u64 > LONGEST_NETCONF {
        let message = format!("the network configuration on stdin has more than {LONGEST_NETCONF} bytes");
        return Err(Error::new(code::IO, message, "shorten it"));
    }
    Ok(netconf)
}

fn print(value: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(line_of(value).as_bytes())?;
    stdout.flush()
}

fn line_of(value: &Value) -> String {
    format!("{value}\n")
}
