//! The node half: address pools, journal, socket, status.

pub mod boot_time;
pub mod pools;
pub mod record;
