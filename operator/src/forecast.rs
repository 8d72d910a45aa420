//! When a pool will be full if it goes on filling as it did: the median of the slopes between all pairs of what was counted
//! in the last hour (Theil and Sen's estimate). A burst or a few outliers do not sway it, and a CIDR that is appended is no
//! drain, since what is taken counts and not what is free.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use cadastre_api::BlockCounts;
use cadastre_core::Family;
use cadastre_engine::PoolReport;

/// What is older says little of the present.
const WINDOW: Duration = Duration::from_hours(1);
/// 61 counts in an hour, and 1830 pairs of them, are enough.
const EVERY: Duration = Duration::from_mins(1);
/// Less than ten minutes are no trend.
const LEAST: usize = 10;

/// Every pool and family.
#[derive(Debug, Default)]
pub struct Forecast {
    trends: BTreeMap<(String, Family), Trend>,
    last: Option<Duration>,
}

impl Forecast {
    /// Takes note of counts at a time on a clock that does not jump. Whether they were due.
    pub fn see(&mut self, at: Duration, pools: &[PoolReport]) -> bool {
        if self.last.is_some_and(|last| at < last + EVERY) {
            return false;
        }
        self.last = Some(at);
        for PoolReport { pool, family, counts } in pools {
            self.trends.entry((pool.clone(), *family)).or_default().see(at, counts);
        }
        true
    }

    /// How long until each is full; `None` if it does not fill.
    pub fn until_full(&self) -> impl Iterator<Item = (&str, Family, Option<Duration>)> {
        self.trends.iter().map(|((pool, family), trend)| (pool.as_str(), *family, trend.until_full()))
    }
}

/// What was counted of one pool and family.
#[derive(Debug, Default)]
struct Trend {
    /// When, and how many blocks were taken.
    taken: VecDeque<(Duration, i64)>,
    free: i64,
}

impl Trend {
    fn see(&mut self, at: Duration, counts: &BlockCounts) {
        self.taken.push_back((at, counts.held.saturating_add(counts.cooling)));
        self.free = counts.free;
        while self.taken.front().is_some_and(|(old, _)| *old + WINDOW < at) {
            self.taken.pop_front();
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a forecast is no count")]
    fn until_full(&self) -> Option<Duration> {
        let rate = self.rate()?;
        let seconds = self.free as f64 / rate;
        (rate > 0.0).then_some(seconds).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    /// Blocks in a second.
    #[expect(clippy::cast_precision_loss, reason = "a forecast is no count")]
    fn rate(&self) -> Option<f64> {
        if self.taken.len() < LEAST {
            return None;
        }
        let slope =
            |(a, b): (&(Duration, i64), &(Duration, i64))| (b.1 - a.1) as f64 / (b.0.as_secs_f64() - a.0.as_secs_f64());
        let pairs = self.taken.iter().enumerate().flat_map(|(i, a)| self.taken.iter().skip(i + 1).map(move |b| (a, b)));
        let mut slopes: Vec<_> = pairs.map(slope).collect();
        let middle = slopes.len() / 2;
        Some(*slopes.select_nth_unstable_by(middle, f64::total_cmp).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long until a pool of `total` blocks is full, after these were taken minute by minute.
    fn forecast(total: i64, taken: impl IntoIterator<Item = i64>) -> Option<u64> {
        let mut forecast = Forecast::default();
        for (minute, held) in taken.into_iter().enumerate() {
            let counts = BlockCounts { total, held, free: total - held, ..BlockCounts::default() };
            let report = PoolReport { pool: "default".into(), family: Family::V4, counts };
            assert!(forecast.see(EVERY * u32::try_from(minute).unwrap(), &[report]));
        }
        let (_, _, until_full) = forecast.until_full().next()?;
        until_full.map(|time| time.as_secs())
    }

    #[test]
    fn a_steady_rate_is_carried_on() {
        assert_eq!(forecast(1060, 0..=60), Some(1000 * 60));
        assert_eq!(forecast(60, 0..=60), Some(0), "full already");
    }

    #[test]
    fn what_does_not_fill_has_no_end() {
        assert_eq!(forecast(100, [7; 61]), None);
        assert_eq!(forecast(100, (0..=60).rev()), None);
        assert_eq!(forecast(100, 0..9), None, "nine minutes are no trend");
    }

    #[test]
    fn steps_are_averaged_and_outliers_do_not_count() {
        let steps = forecast(1000, (0..=60).map(|minute| minute / 20 * 5)).unwrap();
        assert!((200_000..300_000).contains(&steps), "15 an hour, 985 left: {steps}");
        let once = (0..=60).map(|minute| if minute == 30 { 500 } else { minute });
        assert_eq!(forecast(1060, once), Some(1000 * 60));
        assert_eq!(forecast(1000, (0..=60).map(|minute| if minute < 55 { 0 } else { 300 })), None, "one burst");
    }

    #[test]
    fn only_the_last_hour_counts_and_only_once_a_minute() {
        let stopped = (0..120).map(|minute| minute.min(50));
        assert_eq!(forecast(100, stopped), None);
        let mut forecast = Forecast::default();
        assert!(forecast.see(Duration::ZERO, &[]));
        assert!(!forecast.see(Duration::from_secs(59), &[]) && forecast.see(Duration::from_mins(1), &[]));
    }
}
