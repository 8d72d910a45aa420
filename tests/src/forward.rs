//! A port on loopback that leads into a network namespace, so that clients of the test's process, kubectl and Helm reach
//! what listens there.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::thread::JoinHandle;
use std::{io, thread};

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::NetNs;

/// Open until it is dropped.
#[derive(Debug)]
pub(crate) struct Forward {
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Forward {
    /// Passes connections to a free port on to `target`, as it is seen from within `netns`.
    pub fn start(netns: &NetNs, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("a port on loopback")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let path = netns.path();
        let namespace = File::open(&path).with_context(|| path.display().to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (stop, stopped) = oneshot::channel();
        let (entered, has_entered) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            // The namespace is the thread's: what it connects, connects from within.
            let moved = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            let in_there = moved.is_ok();
            // The other side waits for it.
            let _ = entered.send(moved);
            if in_there {
                runtime.block_on(async {
                    tokio::select! {
                        ended = pass_on(listener, target) => if let Err(error) = ended {
                            eprintln!("the way to {target}: {error}");
                        },
                        _ = stopped => {}
                    }
                });
            }
        });
        has_entered.recv()?.with_context(|| format!("entering {}", path.display()))?;
        Ok(Self { port, stop: Some(stop), thread: Some(thread) })
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Until the thread has ended the namespace exists. It does not panic, and a drop could not say so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn pass_on(listener: TcpListener, target: SocketAddr) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (mut client, _) = listener.accept().await?;
        tokio::spawn(async move {
            // Either side may break off whenever it likes; the other then sees an end.
            if let Ok(mut server) = TcpStream::connect(target).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}
