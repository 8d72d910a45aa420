//! A network namespace of our own, kept by a thread that is in it and gone with that thread.
//!
//! A socket stays in the namespace of the thread that made it; so whatever is to happen in there is a task of the runtime that
//! the thread drives.

use std::future::Future;
use std::io;
use std::net::Ipv6Addr;
use std::thread;

use cadastre_runtime::bind;
use nix::sched::{CloneFlags, unshare};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::probe::answer;

/// The namespace. Dropping it ends it.
#[derive(Debug)]
pub struct Space {
    /// Where others find it, as `CNI_NETNS` wants it.
    pub path: String,
    inside: Handle,
    _alive: oneshot::Sender<()>,
}

impl Space {
    /// Makes one in which probes of `node` are answered.
    pub async fn open(node: String, port: u16) -> io::Result<Self> {
        let (opened_to, opened) = oneshot::channel();
        let (alive, ended) = oneshot::channel();
        thread::Builder::new().name("health".to_owned()).spawn(move || live(&node, port, opened_to, ended))?;
        let ended = |_| io::Error::other("the thread of the health endpoint has failed");
        let (path, inside) = opened.await.map_err(ended)??;
        Ok(Self { path, inside, _alive: alive })
    }

    /// Does this in the namespace. `None` if that has ended.
    pub async fn within<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Option<T> {
        self.inside.spawn(task).await.ok()
    }
}

type Opened = io::Result<(String, Handle)>;

fn live(node: &str, port: u16, opened: oneshot::Sender<Opened>, alive: oneshot::Receiver<()>) {
    let (runtime, listener) = match enter(port) {
        Ok(entered) => entered,
        // Whoever asked is told; if nobody listens any more, nobody wants it.
        Err(error) => return drop(opened.send(Err(error))),
    };
    let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), rustix::thread::gettid());
    drop(opened.send(Ok((path, runtime.handle().clone()))));
    runtime.block_on(async {
        tokio::select! {
            () = answer(listener, node) => {}
            _ = alive => {}
        }
    });
}

fn enter(port: u16) -> io::Result<(tokio::runtime::Runtime, TcpListener)> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(bind((Ipv6Addr::UNSPECIFIED, port).into()))?;
    Ok((runtime, listener))
}
