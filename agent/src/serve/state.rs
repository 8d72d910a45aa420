//! Serving; or not knowing who holds what, and what is kept until that is known.
//!
//! ```text
//! open ── fails ──▶ Broken: STATUS 50, GC done, all else 11, DEL remembered ── opened at a later pass ──▶ Serving
//! ```

use std::path::PathBuf;
use std::time::Duration;

use cadastre_messages::{Failure, code};
use tokio::time::Instant;

use crate::boot_time::BootTime;
use crate::desk::{Desk, Opened, Opener};
use crate::journal::Found;
use crate::pools::{Answer, Assignment, Input, Token, broken};
use crate::tombstones::Tombstone;

/// Between two tries to open what could not be.
const RETRY: Duration = Duration::from_secs(2);

/// What the owner has.
#[derive(Debug)]
pub enum State {
    Serving(Box<Desk>),
    Broken(Box<Broken>),
}

/// What is kept until the state can be opened.
#[derive(Debug)]
pub struct Broken {
    why: String,
    opener: Opener,
    /// What came meanwhile.
    deleted: Vec<Tombstone>,
    assigned: Option<Assignment>,
    next_try: Instant,
}

impl State {
    /// Opens it, or says why not and is ready to try again.
    #[must_use]
    pub fn open(opener: Opener) -> Self {
        match opener.open(BootTime::now()) {
            Ok(result) => Self::Serving(Box::new(announced(result))),
            Err(error) => {
                let why = error.to_string();
                tracing::error!(error = why, "no address is given until that is mended; trying again");
                let next_try = Instant::now() + RETRY;
                Self::Broken(Box::new(Broken { why, opener, deleted: Vec::new(), assigned: None, next_try }))
            }
        }
    }

    /// Tries again to open what could not be. Returns what came meanwhile, once it can.
    pub fn mend(&mut self) -> Vec<Input> {
        let Self::Broken(broken) = self else { return Vec::new() };
        if Instant::now() < broken.next_try {
            return Vec::new();
        }
        match broken.opener.open(BootTime::now()) {
            Ok(opened) => {
                let deleted = std::mem::take(&mut broken.deleted).into_iter();
                let deleted = deleted.map(|Tombstone { attachment, at, .. }| Input::Tombstone { attachment, at });
                let meanwhile = broken.assigned.take().map(Input::Assigned).into_iter().chain(deleted).collect();
                *self = Self::Serving(Box::new(announced(opened)));
                meanwhile
            }
            Err(error) => {
                let error = error.to_string();
                if broken.why != error {
                    tracing::error!(error, "no address is given");
                    broken.why = error;
                }
                broken.next_try = Instant::now() + RETRY;
                Vec::new()
            }
        }
    }
}

impl Broken {
    pub fn why(&self) -> &str {
        &self.why
    }

    /// What its caller is told, if somebody called.
    pub fn answer(&mut self, input: Input) -> Option<(Token, Answer)> {
        let failure = broken(&self.why);
        match input {
            Input::Add { token, .. }
            | Input::Check { token, .. }
            | Input::TakeOver { token, .. }
            | Input::Hold { token, .. } => Some((token, Answer::Failed(failure))),
            Input::Status { token, .. } => {
                Some((token, Answer::Failed(Failure { code: code::NOT_AVAILABLE, ..failure })))
            }
            Input::Gc { token, .. } => Some((token, Answer::Done)),
            Input::Del { token, attachment } => {
                let at = BootTime::now().hundredths();
                self.deleted.push(Tombstone { path: PathBuf::new(), attachment, at });
                // The plugin leaves a tombstone then, and that outlives us.
                Some((token, Answer::Failed(failure)))
            }
            Input::Assigned(assignment) => {
                self.assigned = Some(assignment);
                None
            }
            // Tombstones stay where they are; the others are about what is not known.
            Input::Tombstone { .. } | Input::PeerGone(_) | Input::Undelivered(_) | Input::Reclaim(..) | Input::Pass => {
                None
            }
        }
    }
}

fn announced(result: Opened) -> Desk {
    let Opened { desk, found, surveyed, damage } = result;
    let held = desk.pools.held();
    if let Some(damage) = damage {
        tracing::error!(%damage, "the journal is kept as journal.damaged");
    }
    match (surveyed, found) {
        (Some(0), _) if held == 0 => tracing::info!("nothing is held"),
        (Some(found), _) => {
            tracing::warn!(
                found,
                held,
                "the journal does not say who holds what: restored from what lives on this node"
            );
        }
        (None, Found::Nothing | Found::Void) => {
            tracing::info!("the journal is of another boot, and void: nothing is held");
        }
        (None, Found::Records { count, cut: 0, version }) => {
            tracing::info!(count, held, version, "restored from the journal");
        }
        (None, Found::Records { count, cut, version: _ }) => {
            tracing::warn!(count, held, cut, "restored from the journal; a torn batch at its end was cut off");
        }
    }
    desk
}
