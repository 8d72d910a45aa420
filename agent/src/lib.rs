//! The node half: gives addresses to pods, out of the blocks that the operator assigned to this node.
//!
//! ```text
//! plugin ──▶ serve ──▶ desk ──▶ pools     who holds which address: decisions, no I/O, no clock
//!              ▲         └────▶ journal   what survives the death of this process
//! tombstones ──┤             survey  what lives on the node, if the journal cannot say it
//! API server ◀─┴─ kube                    assignment in; status, Events and reconciliation out
//!                 node                    the plugin and its configuration, routes to other nodes
//!                 health                  an endpoint like a pod's, and which nodes' are reached from it
//! command ── audit                        what people ask: an independent look at the addresses of the node
//! ```

pub mod audit;
pub mod boot_time;
pub mod command;
pub mod desk;
pub mod explain;
pub mod health;
pub mod journal;
pub mod kube;
pub mod lock;
pub mod metrics;
pub mod netns;
pub mod node;
pub mod options;
pub mod outlook;
pub mod pools;
pub mod record;
pub mod regular;
pub mod report;
pub mod run;
pub mod serve;
pub mod survey;
pub mod tombstones;
