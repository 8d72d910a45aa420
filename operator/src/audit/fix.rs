//! What `--fix` can do: each is a write that the operator itself would make, with its conditions.

use cadastre_api::{BlockEntry, BlockState};
use cadastre_engine::{Action, World};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use crate::outcome::with_causes;
use crate::requests::Requests;

/// One write.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "do", rename_all = "camelCase")]
pub enum Fix {
    /// Delete this very `IPAMNode`.
    DeleteIpamNode { name: String, uid: String },
    /// Let this block cool: by compare-and-swap of its page.
    Cool { entry: BlockEntry },
}

impl Fix {
    pub async fn carry_out(self, requests: &Requests, world: &World) -> Result<(), String> {
        let action = match self {
            Self::DeleteIpamNode { name, uid } => Action::DeleteIpamNode { name, uid },
            Self::Cool { entry } => cooled(&entry, world).ok_or("its page is not there any more")?,
        };
        requests.send(&action).await.map(drop).map_err(|error| with_causes(&error))
    }
}

fn cooled(entry: &BlockEntry, world: &World) -> Option<Action> {
    let mut page = world.pages.iter().find(|page| page.spec.entries.contains(entry))?.clone();
    let known = page.spec.entries.iter_mut().find(|known| *known == entry)?;
    (known.state, known.since) = (BlockState::Cooling, Time(Timestamp::now()));
    let cooling = page.spec.entries.iter().filter(|entry| entry.state == BlockState::Cooling).count();
    let all = page.spec.entries.len();
    page.spec.cooling = u32::try_from(cooling).ok()?;
    page.spec.held = u32::try_from(all - cooling).ok()?;
    Some(Action::ReplacePage(Box::new(page)))
}
