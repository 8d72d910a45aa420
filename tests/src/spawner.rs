//! One thread that starts every process and lives as long as the test's process does: the kernel delivers a child's
//! parent-death signal when the *thread* that made it ends, and a test's own thread ends with the test.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

type Job = (Command, Sender<io::Result<Child>>);

/// Starts `command` from the long-lived thread.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    static JOBS: OnceLock<Sender<Job>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (sender, receiver) = channel::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in receiver {
                // If nobody waits for it any more, the child is let go; it dies with this process.
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, child) = channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    jobs.send((command, reply)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}
