//! What the engine wants done. The driver does it and says what came of it; it decides nothing.

use cadastre_api::{IPAMConfig, IPAMLedger, IPAMNode, IPAMNodeSpec, IPPool, IPPoolStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// Names one effect, so that its outcome finds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EffectId(pub u64);

/// Something to do, once. Every effect is answered by one `Event::Outcome` with its id.
#[derive(Clone, Debug)]
pub struct Effect {
    /// Its name.
    pub id: EffectId,
    /// What to do.
    pub action: Action,
}

/// All writes are conditional: a create fails if the object exists, a replace carries the resourceVersion it was
/// planned from, a patch tests uid and generation. So a write that was delayed overwrites nothing.
#[derive(Clone, Debug)]
pub enum Action {
    /// POST the config, without its status.
    CreateConfig(Box<IPAMConfig>),
    /// PUT the config's spec, at its resourceVersion.
    ReplaceConfig(Box<IPAMConfig>),
    /// PUT the config's status, at its resourceVersion.
    ReplaceConfigStatus(Box<IPAMConfig>),
    /// GET the config, consistently.
    GetConfig,
    /// POST a page.
    CreatePage(Box<IPAMLedger>),
    /// PUT a page, at its resourceVersion.
    ReplacePage(Box<IPAMLedger>),
    /// GET a page, consistently.
    GetPage {
        /// Its name.
        name: String,
    },
    /// LIST the ledger, consistently.
    ListPages,
    /// POST an `IPAMNode`.
    CreateIpamNode(Box<IPAMNode>),
    /// JSON patch: test `/metadata/uid` and `/metadata/generation`, then replace `/spec`.
    PatchIpamNode {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
        /// The generation this was planned from.
        generation: i64,
        /// What it is to say.
        spec: Box<IPAMNodeSpec>,
    },
    /// DELETE with a UID precondition.
    DeleteIpamNode {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// GET an `IPAMNode`, consistently.
    GetIpamNode {
        /// Its name.
        name: String,
    },
    /// GET a Node, consistently: the only proof that it is gone.
    GetNode {
        /// Its name.
        name: String,
    },
    /// JSON patch of a Node: test its UID and that the taint at this index is `cadastre_api::NOT_READY_TAINT`, then
    /// remove it. Answered with the Node.
    Untaint {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
        /// Index in `spec.taints`.
        at: usize,
    },
    /// Patch of a Node's status, with its UID as a precondition: `NetworkUnavailable` is `False`. Answered with the Node.
    SetNetworkAvailable {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// Server-side apply of the operator's conditions on the status of an `IPAMNode`; answered with the object.
    SetIpamNodeConditions {
        /// Its name.
        name: String,
        /// All conditions that the operator owns there.
        conditions: Vec<Condition>,
    },
    /// POST an `IPPool`.
    CreatePool(Box<IPPool>),
    /// JSON patch of an `IPPool`'s spec: test uid and generation, then replace `/spec`.
    PatchPool(Box<IPPool>),
    /// Server-side apply of an `IPPool`'s status.
    SetPoolStatus {
        /// Its name.
        name: String,
        /// The whole status.
        status: Box<IPPoolStatus>,
    },
    /// Publish an Event. Best effort.
    Publish(Note),
}

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Regarding {
    /// A Node, by name and UID.
    Node {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// `IPAMConfig/cluster`.
    Config {
        /// Its UID.
        uid: String,
    },
    /// An `IPPool`.
    Pool {
        /// Its name.
        name: String,
    },
}

/// An Event for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// What it is about.
    pub regarding: Regarding,
    /// `Warning`, else `Normal`.
    pub warning: bool,
    /// One of `cadastre_api::reason`.
    pub reason: &'static str,
    /// What happened and what to do.
    pub message: String,
}
