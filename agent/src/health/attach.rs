//! The endpoint from ADD to DEL.
//!
//! The address outlives the agent, as pods' addresses do, and the namespace does not: the next agent's ADD is the same attachment
//! again, so it gets the same address for a new namespace.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use cadastre_api::HealthEndpoint;
use cadastre_core::Family;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::plugin::{PluginError, Verb, call};
use super::space::Space;
use super::{CONTAINER_ID, Host};
use crate::node::Kernel;
use crate::outlook::Outlook;
use crate::pools::{HolderView, Input};
use crate::record::BlockState;
use crate::regular;
use crate::serve::Message;

/// For the kernel to end the namespace of an agent that died: mostly a tenth of a second.
const AFTERMATH: Duration = Duration::from_secs(5);

/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// For the DEL of an agent that is stopped for good. kubelet kills it 5 s after its signal.
const FAREWELL: Duration = Duration::from_secs(2);

/// Where the pools are asked.
pub type Owner = mpsc::UnboundedSender<Message>;

/// An endpoint that lives.
#[derive(Debug)]
pub struct Attached {
    pub space: Space,
    pub endpoint: HealthEndpoint,
    /// The configuration that it was attached by.
    conflist: String,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("cannot make a network namespace for the health endpoint: {0}")]
    NoSpace(io::Error),
    #[error("the health endpoint cannot be attached: {0}")]
    Plugin(#[from] PluginError),
    #[error("the health endpoint cannot be attached: the interface plugin names no address")]
    NoAddress,
}

impl Attached {
    /// ADD.
    pub async fn attach(host: &Host, port: u16, conflist: String, owner: &Owner) -> Result<Self, AttachError> {
        after_the_last_one(owner).await;
        let space = Space::open(host.node.clone(), port).await.map_err(AttachError::NoSpace)?;
        let result = call(Verb::Add, &conflist, &host.bin, &space.path).await?;
        let addresses = addresses(&result);
        if addresses.is_empty() {
            return Err(AttachError::NoAddress);
        }
        tracing::info!(?addresses, port, "the health endpoint is attached");
        Ok(Self { space, endpoint: HealthEndpoint { addresses, port }, conflist })
    }

    /// DEL, and the end of the namespace.
    pub async fn detach(self, host: &Host, owner: &Owner) {
        let Self { space, endpoint: _, conflist } = self;
        del(host, &conflist, &space.path, owner).await;
    }

    /// Why it has to be attached anew, if it has. `conflist`: what is installed now.
    pub fn outdated(&self, outlook: &Outlook, conflist: Option<&str>) -> Option<&'static str> {
        if outlook.journal.unreadable {
            return None; // Nothing is known of blocks.
        }
        let open = |address: &IpAddr| {
            let blocks = outlook.view.shares.iter().flat_map(|share| &share.blocks);
            blocks.filter(|block| block.state == BlockState::Active).any(|block| block.cidr.contains_addr(*address))
        };
        let own: BTreeSet<Family> = self.endpoint.addresses.iter().map(|address| Family::of(*address)).collect();
        if !self.endpoint.addresses.iter().all(open) {
            Some("its block is taken back")
        } else if families(outlook) != own {
            Some("the node has other families")
        } else if conflist.is_some_and(|conflist| conflist != self.conflist) {
            Some("the CNI configuration is another one")
        } else {
            None
        }
    }
}

/// In which the node can give addresses.
pub fn families(outlook: &Outlook) -> BTreeSet<Family> {
    let active = |share: &&crate::pools::ShareView| share.blocks.iter().any(|block| block.state == BlockState::Active);
    outlook.view.shares.iter().filter(active).map(|share| share.family).collect()
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect()
}

/// What is held in the endpoint's name, if anything.
async fn held(owner: &Owner) -> Option<HolderView> {
    let (to, holders) = oneshot::channel();
    owner.send(Message::Holders(to)).ok()?;
    holders.await.ok()?.into_iter().find(|view| view.holder.attachment.container_id == CONTAINER_ID)
}

/// The interface of an agent that died leads to the address for as long as the kernel needs to end its namespace, and an
/// interface plugin takes that for its own.
async fn after_the_last_one(owner: &Owner) {
    let Some(view) = held(owner).await else { return };
    let gone = async {
        for address in view.addresses() {
            while Kernel::open()?.leads_to_a_pod(address).await? {
                sleep(LOOK).await;
            }
        }
        io::Result::Ok(())
    };
    match timeout(AFTERMATH, gone).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the kernel does not say where the health endpoint's address leads"),
        Err(_) => tracing::warn!("the health endpoint of the agent before is still there"),
    }
}

/// The plugins' DEL; what is held after it as well is given back without them.
async fn del(host: &Host, conflist: &str, netns: &str, owner: &Owner) {
    if let Err(error) = call(Verb::Del, conflist, &host.bin, netns).await {
        tracing::warn!(%error, "the health endpoint's interface goes with its namespace");
    }
    if let Some(view) = held(owner).await {
        drop(owner.send(Message::Event(Input::Reclaim(view.holder.clone(), view.netns().clone()))));
    }
}

/// Gives back what an agent holds, or one of before held, when there is to be no endpoint any more. Its namespace is gone.
pub async fn release(host: &Host, owner: &Owner) {
    if held(owner).await.is_none() {
        return;
    }
    let conflist = regular::read_to_string(&host.conflist).unwrap_or_default();
    if timeout(FAREWELL, del(host, &conflist, "", owner)).await.is_err() {
        tracing::warn!("the health endpoint's address stays held: the interface plugin does not end");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pools::fixtures::{assigned, at, live};

    async fn attached(addresses: &[&str]) -> Option<Attached> {
        let space = match Space::open("n1".into(), 0).await {
            Ok(space) => space,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None, // Not root.
            Err(error) => panic!("{error}"),
        };
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Some(Attached { space, endpoint: HealthEndpoint { addresses, port: 4240 }, conflist: "c".into() })
    }

    fn outlook(pools: &crate::pools::Pools<crate::pools::Live>) -> Outlook {
        Outlook { view: pools.view(), ..Outlook::default() }
    }

    #[tokio::test]
    async fn it_leaves_a_block_that_is_wanted_back() {
        let Some(own) = attached(&["10.0.2.9"]).await else { return };
        let mut pools = live(&["10.0.2.0/24"]);
        assert_eq!(own.outdated(&outlook(&pools), Some("c")), None);
        assert_eq!(own.outdated(&outlook(&pools), None), None, "somebody removed the file: it comes back");
        assert_eq!(own.outdated(&outlook(&pools), Some("d")), Some("the CNI configuration is another one"));
        pools.apply(at(1), [assigned(&["10.0.2.0/24", "fd00::/120"])]);
        assert_eq!(own.outdated(&outlook(&pools), Some("c")), Some("the node has other families"));
        pools.apply(at(2), [assigned(&["10.0.2.0/24 retiring", "10.0.3.0/24"])]);
        assert_eq!(own.outdated(&outlook(&pools), Some("c")), Some("its block is taken back"));
        let mut unreadable = outlook(&pools);
        unreadable.journal.unreadable = true;
        assert_eq!(own.outdated(&unreadable, Some("d")), None);
    }

    #[tokio::test]
    async fn its_namespace_is_its_own_and_ends_with_it() {
        use std::os::unix::fs::MetadataExt;
        let Some(own) = attached(&["10.0.2.9"]).await else { return };
        let inode = |path: &str| std::fs::metadata(path).map(|there| there.ino());
        assert_ne!(inode(&own.space.path).unwrap(), inode("/proc/self/ns/net").unwrap());
        let path = own.space.path.clone();
        let inside = own.space.within(async { std::fs::metadata("/proc/thread-self/ns/net").map(|there| there.ino()) });
        assert_eq!(inside.await.unwrap().unwrap(), inode(&path).unwrap());
        drop(own);
        let gone = async {
            while inode(&path).is_ok() {
                sleep(LOOK).await;
            }
        };
        timeout(AFTERMATH, gone).await.expect("the thread ends");
    }

    #[test]
    fn a_result_names_the_addresses() {
        let result = json!({"ips": [{"address": "10.0.2.9/24"}, {"address": "fd00::9/120"}]});
        assert_eq!(addresses(&result), ["10.0.2.9".parse::<IpAddr>().unwrap(), "fd00::9".parse().unwrap()]);
        assert_eq!(addresses(&Value::Null), [] as [IpAddr; 0]);
    }
}
