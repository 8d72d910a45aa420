//! The wish to stop, as a value that every task can wait for.
//!
//! Kubernetes sends SIGTERM and kills after a grace period: whoever holds a lease gives it back in between. A second
//! signal ends the process at once, for people whose first Ctrl-C seems to do nothing.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Exit code after a second signal: 128 and SIGINT's number, as shells have it.
const INTERRUPTED: i32 = 128 + 2;

/// Asks everybody who holds the matching [`Shutdown`] to stop.
#[derive(Clone, Debug)]
pub struct Trigger(Arc<watch::Sender<bool>>);

/// Whether this process should stop. Clone it for every task.
#[derive(Clone, Debug)]
pub struct Shutdown {
    requested: watch::Receiver<bool>,
    // The channel must outlive the last waiter, or waiting would end without a request.
    trigger: Trigger,
}

impl Trigger {
    /// Asks for the stop; once is enough.
    pub fn fire(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// A shutdown that only `Trigger` asks for: for tests, and to stop one part of a process.
    #[must_use]
    pub fn manual() -> (Trigger, Self) {
        let (sender, requested) = watch::channel(false);
        let trigger = Trigger(Arc::new(sender));
        (trigger.clone(), Self { requested, trigger })
    }

    /// A shutdown that SIGTERM and SIGINT ask for. Needs to be called within a tokio runtime.
    ///
    /// # Errors
    /// If the signal handlers cannot be installed.
    pub fn on_signals() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (trigger, shutdown) = Self::manual();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "stopping");
            trigger.fire();
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("second signal: stopping at once");
            std::process::exit(INTERRUPTED);
        });
        Ok(shutdown)
    }

    /// Whether the stop was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Returns when the stop was asked for.
    pub async fn requested(&self) {
        let mut requested = self.requested.clone();
        // An error means that no sender is left, which `self.trigger` rules out.
        let _ = requested.wait_for(|requested| *requested).await;
    }

    /// Asks for the stop from within, for example when a part that nothing works without has ended.
    #[must_use]
    pub fn trigger(&self) -> &Trigger {
        &self.trigger
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, id};

    use super::*;

    #[tokio::test]
    async fn a_trigger_reaches_every_clone() {
        let (trigger, shutdown) = Shutdown::manual();
        let clone = shutdown.clone();
        assert!(!clone.is_requested());
        let waiter = tokio::spawn(async move { clone.requested().await });
        trigger.fire();
        trigger.fire();
        waiter.await.unwrap();
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }

    #[tokio::test]
    async fn sigterm_asks_for_the_stop() {
        let shutdown = Shutdown::on_signals().unwrap();
        assert!(Command::new("kill").args(["-TERM", &id().to_string()]).status().unwrap().success());
        shutdown.requested().await;
    }
}
