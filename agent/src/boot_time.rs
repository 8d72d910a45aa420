//! Time as the agent counts it: since the machine started, suspended time included.
//!
//! The wall clock jumps; this one does not, and it begins anew exactly when every network namespace ends. The plugin
//! stamps tombstones with the same clock (`/proc/uptime`), in hundredths of a second.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootTime(u64);

impl BootTime {
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// As the plugin counts, rounded down as the kernel does.
    #[must_use]
    pub const fn hundredths(self) -> u64 {
        self.0 / 10
    }

    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
        Self(seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000))
    }
}

/// What the kernel calls this boot.
pub fn boot_id() -> io::Result<String> {
    std::fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id")).map(|id| id.trim().to_owned())
}
