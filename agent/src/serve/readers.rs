//! Callers that have not said all of their line: few at a time, and the slowest gives way.
//!
//! ```text
//! accept ─▶ admit ── room ──▶ Reading ── line complete ──▶ counts among those that are served
//!              └── none ──▶ the oldest is told to end, if it had its time; else the next to finish makes room
//! ```
//! So callers that never finish a line cost the others nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

/// More than a full node starts pods at once: on a machine that is short of CPU each of their plugins may have connected, and
/// not written yet.
const AT_ONCE: usize = 256;

/// Nobody gives way sooner: a plugin writes its line in one go, and the line may lie in the socket unread.
const GRACE: Duration = Duration::from_millis(10);

/// Those that read, oldest first.
pub struct Readers {
    room: Arc<Semaphore>,
    oldest: VecDeque<(Instant, oneshot::Sender<()>)>,
}

/// A place among them. Dropping it makes room.
pub struct Reading {
    _room: Option<OwnedSemaphorePermit>,
    ended: oneshot::Receiver<()>,
}

impl Default for Readers {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(AT_ONCE)), oldest: VecDeque::new() }
    }
}

impl Readers {
    /// Waits for room, and makes some if need be.
    pub async fn admit(&mut self) -> Reading {
        let room = loop {
            self.oldest.retain(|(_, reader)| !reader.is_closed());
            let oldest = self.oldest.front().map_or_else(Instant::now, |(since, _)| *since);
            match timeout_at(oldest + GRACE, Arc::clone(&self.room).acquire_owned()).await {
                Ok(room) => break room.ok(), // It is never closed.
                Err(_) => {
                    if let Some((_, reader)) = self.oldest.pop_front() {
                        // One that finished meanwhile has made room by itself. Whoever is told makes it at once.
                        let _ = reader.send(());
                        tokio::task::yield_now().await;
                    }
                }
            }
        };
        let (end, ended) = oneshot::channel();
        self.oldest.push_back((Instant::now(), end));
        Reading { _room: room, ended }
    }
}

impl Reading {
    /// When it has to give way.
    pub async fn ended(self) {
        if self.ended.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
