//! How long to wait before the next attempt, so that an API server in trouble is asked less and less often.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
/// An API server that is back is noticed within this.
const LONGEST: Duration = Duration::from_secs(5);

/// Doubles from `FIRST` to `LONGEST`.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// After another failure: how long to wait, a tenth more or less, so that clients do not come back in step.
    pub fn next(&mut self) -> Duration {
        let wait = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        wait.mul_f64(rand::random_range(0.9..1.1))
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_a_bound_and_starts_over_after_a_success() {
        let mut backoff = Backoff::default();
        let near = |wait: Duration, millis: u64| {
            wait.abs_diff(Duration::from_millis(millis)).as_millis() <= u128::from(millis / 10)
        };
        assert!(near(backoff.next(), 200));
        assert!(near(backoff.next(), 400));
        for _ in 0..100 {
            backoff.next();
        }
        assert!(near(backoff.next(), 5000));
        backoff.reset();
        assert!(near(backoff.next(), 200));
    }
}
