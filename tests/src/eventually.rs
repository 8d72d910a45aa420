//! Waiting for something that another process brings about.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

/// Polls are this far apart at first and at most: quick where it is quick, cheap where it takes long.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What a probe may answer: there or not yet, and why not.
pub trait Probe {
    type Value;
    fn settle(self) -> Result<Self::Value, String>;
}

impl Probe for bool {
    type Value = ();
    fn settle(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "not yet".to_owned())
    }
}

impl<T> Probe for Option<T> {
    type Value = T;
    fn settle(self) -> Result<T, String> {
        self.ok_or_else(|| "not yet".to_owned())
    }
}

impl<T, E: Display> Probe for Result<T, E> {
    type Value = T;
    fn settle(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:#}"))
    }
}

/// Waits a minute at most until `condition` is so; what it failed with last is said if it never is.
pub async fn until(what: &str, condition: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let probe = async || if condition().await? { Ok(()) } else { Err(anyhow!("not so yet")) };
    eventually(Duration::from_mins(1), what, probe).await
}

/// Asks `probe` until it answers `true`, `Some` or `Ok`; the error names `what` and the last reason.
pub async fn eventually<P: Probe>(
    timeout: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> P,
) -> Result<P::Value> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        // At least one full try, and none that outlives the wait by much.
        let answer = tokio::time::timeout(left.max(Duration::from_secs(1)), probe()).await;
        let reason = match answer.map(Probe::settle) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => reason,
            Err(_) => "the probe itself did not return".to_owned(),
        };
        if start.elapsed() >= timeout {
            bail!("waited {timeout:?} for {what}; last: {reason}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
