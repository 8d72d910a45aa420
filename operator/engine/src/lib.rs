//! The operator's decisions: a machine without I/O.
//!
//! ```text
//! Event ─▶ observe ─▶ validate ─▶ plan ─▶ commit ─▶ apply ─▶ report ─▶ Effect
//!            │           │          │        │         │        │
//!          what is    config    modes    ledger    IPAMNode   conditions,
//!          known      admits    choose   pages     POST,      pool status,
//!          of nodes   pools     blocks   by CAS    patch      Events
//! ```
//!
//! `Engine::handle(now, event) → effects`. The driver does the effects and feeds back what came of each. Time, events
//! and random numbers come from outside, so a simulation can run several engines against one store by seed.

#![warn(missing_docs)]

mod apply;
mod assign;
mod claims;
mod commit;
mod config;
mod effect;
mod engine;
mod event;
mod ledger;
mod mirror;
mod nodes;
mod observe;
mod open;
mod outcome;
mod page;
mod pool_status;
mod pools;
mod record;
mod recover;
mod report;
mod settings;

pub use config::{Refusal, RefusalKind, announce, refusals};
pub use effect::{Action, Effect, EffectId, Note, Regarding};
pub use engine::{Counters, Engine};
pub use event::{Answer, Event, NodeSeen, Outcome, World};
pub use report::{Phase, PoolReport, Report};
pub use settings::{ConfiguredPool, EngineSettings, LEAST_COOLING};
