//! How many requests are sent at once, learnt from what the API server turns away: what waits here leaves room in its
//! queues for the writes that everything waits for, and for other clients.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Requests at once at the least.
const NARROWEST: usize = 2;
/// After as many answers for each request at once, one more is tried.
const PATIENCE: usize = 4;

/// Halves with each wave of 429, and grows again with answers, by one at a time. Clones share it.
#[derive(Clone, Debug)]
pub struct Pace(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Requests at once beyond which nothing is learnt: nobody sends more.
    widest: usize,
    state: Mutex<State>,
    /// A request came to its end.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Under way. What was turned away and waits to be sent again is not.
    sent: usize,
    /// `None`: as many as wanted, nothing was turned away yet.
    width: Option<usize>,
    /// Answers since it grew.
    answered: usize,
    /// What was sent earlier belongs to a wave that it halved for already.
    halved: Option<Instant>,
}

/// A request under way, until it is dropped.
#[derive(Debug)]
pub struct Sent {
    pace: Pace,
    at: Instant,
}

impl Pace {
    /// Of senders that have `widest` requests under way at the most, all together.
    pub fn new(widest: usize) -> Self {
        Self(Arc::new(Shared { widest, state: Mutex::default(), freed: Notify::new() }))
    }

    /// A request goes out at `at`.
    pub fn send(&self, at: Instant) -> Sent {
        self.state().sent += 1;
        Sent { pace: self.clone(), at }
    }

    /// Whether one more is to be sent.
    pub fn has_room(&self) -> bool {
        let state = self.state();
        state.width.is_none_or(|width| state.sent < width)
    }

    /// Waits for a request to come to its end, from this call on and not from when it is polled.
    pub fn freed(&self) -> Notified<'_> {
        self.0.freed.notified()
    }

    /// Waits until one more is to be sent.
    pub async fn room(&self) {
        loop {
            let freed = self.freed();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sent {
    pub fn pace(&self) -> Pace {
        self.pace.clone()
    }

    /// It was done.
    pub fn answered(self) {
        let mut state = self.pace.state();
        state.answered += 1;
        if let Some(width) = state.width.filter(|width| state.answered >= width * PATIENCE) {
            (state.width, state.answered) = (Some((width + 1).min(self.pace.0.widest)), 0);
        }
    }

    /// It was answered with 429, which came in at `now`.
    pub fn turned_away(self, now: Instant) {
        let mut state = self.pace.state();
        if state.halved.is_some_and(|halved| self.at < halved) {
            return;
        }
        let width = state.width.unwrap_or(state.sent) / 2;
        (state.width, state.answered, state.halved) = (Some(width.max(NARROWEST)), 0, Some(now));
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.pace.state().sent -= 1;
        self.pace.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const WIDEST: usize = 64;

    fn room(pace: &Pace) -> usize {
        let mut sent = Vec::new();
        while pace.has_room() && sent.len() < 1000 {
            sent.push(pace.send(Instant::now()));
        }
        sent.len()
    }

    #[test]
    fn halves_once_for_a_wave_and_grows_with_answers() {
        let (pace, start) = (Pace::new(WIDEST), Instant::now());
        assert_eq!(room(&pace), 1000, "nothing was turned away yet");
        let wave = |at: Duration, size: usize| {
            let sent: Vec<_> = (0..size).map(|_| pace.send(start + at)).collect();
            for sent in sent {
                sent.turned_away(start + at + Duration::from_millis(5));
            }
        };
        wave(Duration::ZERO, 40);
        assert_eq!(room(&pace), 20);
        wave(Duration::from_secs(1), 20);
        assert_eq!(room(&pace), 10);
        for second in 2..10 {
            wave(Duration::from_secs(second), 5);
        }
        assert_eq!(room(&pace), NARROWEST);

        for _ in 0..NARROWEST * PATIENCE - 1 {
            pace.send(start).answered();
        }
        assert_eq!(room(&pace), NARROWEST);
        pace.send(start).answered();
        assert_eq!(room(&pace), NARROWEST + 1);
        for _ in 0..10_000 {
            pace.send(start).answered();
        }
        assert_eq!(room(&pace), WIDEST);
    }

    #[tokio::test]
    async fn whoever_waits_for_room_goes_on_when_a_request_ends() {
        let pace = Pace::new(WIDEST);
        pace.send(Instant::now()).turned_away(Instant::now());
        let mut sent: Vec<_> = (0..NARROWEST).map(|_| pace.send(Instant::now())).collect();
        let waiting = tokio::spawn({
            let pace = pace.clone();
            async move { pace.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        sent.pop();
        timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    }
}
