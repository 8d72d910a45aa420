//! The node half: address pools, journal, socket, status.

pub mod boot_time;
pub mod desk;
pub mod journal;
pub mod lock;
pub mod metrics;
pub mod netns;
pub mod outlook;
pub mod pools;
pub mod record;
pub mod report;
pub mod serve;
pub mod tombstones;
