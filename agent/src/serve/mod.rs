//! The socket, from listening to the last reply.
//!
//! ```text
//! thread "serve", one for all of it: accept ─▶ connection, connection, … ─▶ queue ─▶ owner
//! ```
//! One thread, so that a call changes threads nowhere; and one of its own, so that neither a long list from the API server
//! nor a scrape of the metrics makes a pod wait.

mod connection;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod listen;
mod owner;
mod readers;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use cadastre_runtime::Shutdown;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval};

pub use listen::{ListenError, Socket, folder_of};
pub use owner::{Message, Owner};
pub use state::State;

use crate::kube::Annotations;
use crate::metrics::Metrics;
use crate::pools::Token;
use connection::Connection;
use readers::Readers;

/// Calls that are served at once; more wait in the backlog of the socket.
const AT_ONCE: usize = 256;

/// Between two looks whether the socket is still there.
const LOOK: Duration = Duration::from_secs(1);

/// After `accept` failed, mostly for want of files: others have to end first.
const PAUSE: Duration = Duration::from_millis(100);

/// What each call needs. Clones share everything.
#[derive(Clone, Debug)]
pub struct Front {
    pub owner: mpsc::UnboundedSender<Message>,
    pub annotations: Annotations,
    pub metrics: Metrics,
}

/// Accepts until the shutdown is asked for. Calls that wait then are cut off: their plugins ask the next agent.
pub async fn serve(
    mut socket: Socket,
    owner: Owner,
    queue: mpsc::UnboundedReceiver<Message>,
    front: Front,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let owner = tokio::spawn(owner.run(queue));
    tokio::select! {
        accepted = accept(&mut socket, &front) => accepted?,
        () = shutdown.requested() => {}
        ended = owner => tracing::error!(?ended, "the owner of the pools has ended"),
    }
    socket.close();
    Ok(())
}

async fn accept(socket: &mut Socket, front: &Front) -> std::io::Result<()> {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut listener = UnixListener::from_std(socket.listener.try_clone()?)?;
    let served = Arc::new(Semaphore::new(AT_ONCE));
    let mut readers = Readers::default();
    for token in 0.. {
        // The semaphore is never closed.
        drop(served.acquire().await);
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted,
                _ = looks.tick() => match socket.tend() {
                    Ok(false) => {}
                    Ok(true) => listener = UnixListener::from_std(socket.listener.try_clone()?)?,
                    Err(error) => tracing::error!(%error, "the socket was removed and cannot be made anew"),
                },
            }
        };
        match accepted {
            Ok((stream, _)) => {
                let reading = readers.admit().await;
                let connection = Connection { stream, token: Token(token), front: front.clone() };
                tokio::spawn(connection.serve(reading, Arc::clone(&served)));
            }
            Err(error) => {
                tracing::warn!(%error, "a call could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}
