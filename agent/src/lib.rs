//! The node half: address pools, journal, socket, status.

pub mod boot_time;
pub mod desk;
pub mod journal;
pub mod kube;
pub mod lock;
pub mod metrics;
pub mod netns;
pub mod outlook;
pub mod pools;
pub mod record;
pub mod report;
pub mod run;
pub mod serve;
pub mod status_command;
pub mod tombstones;
