//! Network namespaces: one plays a node, the others its pods. Nothing of a test touches the machine's own network.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, io};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{Output, Program, scratch, until};

const FOLDER: &str = "/run/netns";
const PREFIX: &str = "cadastre-";

/// A network namespace with a name of its own under `/run/netns`, its loopback up. Dropping it deletes it, and with it
/// every device in it.
#[derive(Debug)]
pub struct NetNs {
    name: String,
}

impl NetNs {
    /// Makes one; `what` is part of its name. Needs root.
    pub fn new(what: &str) -> Result<Self> {
        static SWEEP: Once = Once::new();
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        SWEEP.call_once(sweep);
        let name = format!("{PREFIX}{}-{}-{what}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]).context("making a network namespace (needs root)")?;
        let netns = Self { name };
        ip(&["-n", &netns.name, "link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// Its name, for `ip -n NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path, as `CNI_NETNS` wants it.
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// Runs a command in it.
    pub async fn run(&self, command: &[&str]) -> Result<Output> {
        let (program, args) = command.split_first().context("no command")?;
        Program::new(program).args(args).netns(self).run().await
    }

    /// Runs `ip` in it.
    pub fn ip(&self, args: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.name], args].concat())
    }

    /// Listens in it, though it is not where this process is.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener> {
        let listener = self.within(move || TcpListener::bind(address));
        listener.with_context(|| format!("listening at {address} in {}", self.name))
    }

    /// Connects to who listens in it.
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream> {
        let stream = self.within(move || TcpStream::connect(address));
        stream.with_context(|| format!("connecting to {address} in {}", self.name))
    }

    /// In a thread of its own, since a namespace is a thread's. A socket stays where it was made.
    fn within<T: Send + 'static>(&self, make: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
        let netns = File::open(self.path())?;
        let enter = move || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            make()
        };
        let result = std::thread::spawn(enter).join().map_err(|_| anyhow!("the thread in {} has failed", self.name))?;
        Ok(result?)
    }

    /// Whether one ping to `address` from within is answered in 2 s.
    pub async fn pings(&self, address: &str) -> Result<bool> {
        Ok(self.run(&["ping", "-n", "-c", "1", "-W", "2", address]).await?.success())
    }

    /// Waits until a ping to `address` is answered: one of IPv6 answers only once duplicate address detection is done with it.
    pub async fn reaches(&self, address: &IpAddr) -> Result<()> {
        until(&format!("a ping of {address}"), async || self.pings(&address.to_string()).await).await
    }

    /// In how many families a default route leads out of it.
    pub async fn default_routes(&self) -> Result<usize> {
        let mut count = 0;
        for family in ["-4", "-6"] {
            let routes = self.run(&["ip", family, "route", "show", "default"]).await?.ok()?;
            count += usize::from(routes.contains("via"));
        }
        Ok(count)
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

/// Short and synchronous, so that it also works in a drop.
fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("running ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Deletes the namespaces of processes that no longer exist.
fn sweep() {
    let names = || io::Result::Ok(fs::read_dir(FOLDER)?.flatten().map(|entry| entry.file_name()));
    for name in names().into_iter().flatten() {
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.split('-').next());
        if let (Some(name), true) = (name.to_str(), owner.is_some_and(scratch::is_dead)) {
            // Another process may be sweeping too; whoever comes second finds nothing.
            let _ = ip(&["netns", "del", name]);
        }
    }
}
