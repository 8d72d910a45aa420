//! What lives on this node, found without the journal: for an agent whose journal is missing or damaged.
//!
//! ```text
//! runtime's cache of results ─▶ attachments of ours whose namespace is there: who, which pod, which addresses
//! network namespaces         ─▶ the addresses in them: those that no attachment explains are strays, held until it goes
//! ```
//! What cannot be read is an error, not an empty list: addresses that were given before must not be given again.

mod cache;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod namespaces;

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cadastre_messages::Attachment;

use crate::record::{NetnsRecord, PodName};

/// Where to look.
#[derive(Clone, Debug)]
pub struct Places {
    /// libcni's folder, which holds `results`.
    pub cache: PathBuf,
    /// The folder of the network namespaces.
    pub namespaces: PathBuf,
    /// Our socket: networks of another agent's are none of our business.
    pub socket: PathBuf,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    pub attached: Vec<Attached>,
    pub strays: Vec<Stray>,
}

/// One attachment that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    pub attachment: Attachment,
    pub netns: NetnsRecord,
    pub pod: Option<PodName>,
    pub addresses: Vec<IpAddr>,
    /// Its network brings its own ranges.
    pub of_ranges: bool,
}

/// One address in a namespace that nothing explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    pub address: IpAddr,
    pub netns: NetnsRecord,
}

/// Why it is not known what lives here.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    #[error(
        "cannot read {}: {source}; it has to be mounted into the agent, and readable, to find out which addresses are in use",
        path.display()
    )]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "cannot look into the network namespace {}: {source}; the agent needs CAP_SYS_ADMIN to find out which addresses are in use",
        path.display()
    )]
    Closed { path: PathBuf, source: io::Error },
}

/// Every network namespace in a folder, with the addresses in it.
pub fn spaces(folder: &Path) -> Result<Vec<(NetnsRecord, Vec<IpAddr>)>, SurveyError> {
    let spaces = namespaces::read(folder)?;
    Ok(spaces.into_iter().map(|space| (space.netns, space.addresses)).collect())
}

/// Looks at everything once.
pub fn survey(places: &Places) -> Result<Survey, SurveyError> {
    let entries = cache::read(places)?;
    let spaces = match namespaces::read(&places.namespaces) {
        // Without the capability the runtime's word has to do, if it keeps a cache at all.
        Err(error @ SurveyError::Closed { .. }) if cache::exists(places) => {
            tracing::warn!(%error, "only what the runtime's cache says is known");
            Vec::new()
        }
        spaces => spaces?,
    };
    let mut living: Vec<(SystemTime, Attached)> = entries
        .into_iter()
        .filter_map(|entry| {
            let netns = entry.netns(&spaces)?;
            let cache::Entry { attachment, pod, addresses, of_ranges, path: _, written } = entry;
            Some((written, Attached { attachment, netns, pod, addresses, of_ranges }))
        })
        .collect();
    // The last one is believed: of two that have one address, the one whose namespace was seen, then the newer one.
    living.sort_by_key(|(written, attached)| (attached.netns.seen, *written));
    let attached: Vec<Attached> = living.into_iter().map(|(_, attached)| attached).collect();
    // By what they are, as one namespace has several paths.
    let key = |netns: &NetnsRecord| (netns.device, netns.inode);
    let explained: HashSet<(IpAddr, (u64, u64))> = attached
        .iter()
        .flat_map(|attached| attached.addresses.iter().map(move |address| (*address, key(&attached.netns))))
        .collect();
    let in_spaces = spaces.iter().flat_map(|space| space.addresses.iter().map(move |address| (*address, space)));
    let strays = in_spaces.filter(|(address, space)| !explained.contains(&(*address, key(&space.netns))));
    let strays = strays.map(|(address, space)| Stray { address, netns: space.netns.clone() }).collect();
    Ok(Survey { attached, strays })
}

#[cfg(test)]
pub(crate) mod tests;
