//! Rules of the design, each broken on purpose where engine and store meet: the simulation is worth what it finds of these.

use cadastre_engine::{Action, Answer, Outcome};

use crate::store::{Cache, Store};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A commit counts as done before it is: what it says is applied first.
    ApplyBeforeCommit,
    /// `IPAMNode`s are written whatever was planned from, and created if they are not there.
    Upsert,
    /// Each operator writes a block's entry to a page of its own, and not to the one that the block determines.
    PageByRoom,
    /// Whether a Node exists is answered from the watch's cache.
    DeletionFromCache,
    /// The start reads the ledger only.
    RestoreWithoutIpamNodes,
}

impl Rule {
    pub const ALL: [Self; 5] = [
        Self::ApplyBeforeCommit,
        Self::Upsert,
        Self::PageByRoom,
        Self::DeletionFromCache,
        Self::RestoreWithoutIpamNodes,
    ];

    /// Does what `action` says, but for the rule.
    pub fn perform(
        self,
        action: Action,
        at: usize,
        cache: &Cache,
        store: &mut Store,
        orphans: &mut Vec<Action>,
    ) -> Outcome {
        match (self, action) {
            (Self::ApplyBeforeCommit, action @ (Action::CreatePage(_) | Action::ReplacePage(_))) => {
                let (Action::CreatePage(page) | Action::ReplacePage(page)) = &action else { unreachable!() };
                let answer = page.clone();
                orphans.push(action);
                Outcome::Done(Answer::Page(answer))
            }
            (Self::Upsert, Action::PatchIpamNode { name, spec, .. }) => store.upsert(&name, *spec),
            (Self::Upsert, Action::CreateIpamNode(node)) => {
                let name = node.metadata.name.clone().unwrap();
                store.upsert(&name, node.spec)
            }
            (Self::PageByRoom, Action::CreatePage(mut page)) => {
                rename(&mut page.metadata.name, at);
                store.perform(Action::CreatePage(page))
            }
            (Self::PageByRoom, Action::ReplacePage(mut page)) => {
                rename(&mut page.metadata.name, at);
                store.perform(Action::ReplacePage(page))
            }
            (Self::PageByRoom, Action::GetPage { name }) => {
                store.perform(Action::GetPage { name: format!("{name}-{at}") })
            }
            (Self::DeletionFromCache, Action::GetNode { name }) => match cache.nodes.get(&name) {
                Some(node) => Outcome::Done(Answer::Node(node.clone())),
                None => Outcome::NotFound,
            },
            (_, action) => store.perform(action),
        }
    }
}

fn rename(name: &mut Option<String>, at: usize) {
    *name = name.take().map(|name| format!("{name}-{at}"));
}
