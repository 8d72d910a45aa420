//! The verbs as tables, then anything in any order against a model that knows only what callers were told.

mod cases;
pub mod fixtures;
mod local;
mod model;
