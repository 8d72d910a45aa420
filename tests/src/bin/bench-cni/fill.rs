//! Addresses that are held before anything is measured: ours given over the socket as to the plugin, host-local's as the
//! files that it would have written.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, bail};
use cadastre_messages::{Add, Attachment, Call, Local, Netns, Pod, Range, Reply, Status, TakeOver};
use cadastre_tests::ask;

use crate::call::{Container, NAMESPACE};
use crate::options::Network;
use crate::stage::Node;
use crate::subject::NETWORK_NAME;

pub fn ours(node: &Node) -> Result<()> {
    let there = fs::metadata(&node.netns)?;
    let netns = Netns { path: node.netns.display().to_string(), device: there.dev(), inode: there.ino() };
    let uid = Some(node.owner.uid.clone());
    let pod = Pod { namespace: NAMESPACE.to_owned(), name: node.owner.name.clone(), uid };
    for number in 0..node.held {
        let Container { id, args: _ } = Container::new(number.into(), &node.owner);
        let attachment = attachment(id);
        let call = Call::Add(Add {
            annotated: true,
            local: local(node),
            ..Add::new(attachment, netns.clone(), Some(pod.clone()))
        });
        match ask(&node.socket, call.clone())? {
            Reply::Given(_) => {}
            Reply::TakeOver => {
                take_over(node)?;
                expect_given(ask(&node.socket, call)?)?;
            }
            other => bail!("ADD was answered {other:?}"),
        }
    }
    Ok(())
}

fn expect_given(reply: Reply) -> Result<()> {
    match reply {
        Reply::Given(_) => Ok(()),
        other => bail!("ADD was answered {other:?}"),
    }
}

/// The plugin would hand over what host-local reserved: nothing, when the network is new.
fn take_over(node: &Node) -> Result<()> {
    let nothing = TakeOver { network: NETWORK_NAME.to_owned(), reservations: Vec::new(), last: Vec::new(), done: true };
    match ask(&node.socket, Call::TakeOver(nothing))? {
        Reply::Ok => Ok(()),
        other => bail!("the takeover was answered {other:?}"),
    }
}

/// Whether an ADD could be served.
pub fn is_well(node: &Node) -> Result<bool> {
    let local = local(node);
    let network = local.is_some().then(|| NETWORK_NAME.to_owned());
    Ok(ask(&node.socket, Call::Status(Status { network, local }))? == Reply::Ok)
}

fn local(node: &Node) -> Option<Local> {
    let range = Range { subnet: node.subnet(), ..Range::default() };
    (node.network == Network::Ranges).then(|| Local { sets: vec![vec![range]] })
}

fn attachment(container_id: String) -> Attachment {
    Attachment { network: NETWORK_NAME.to_owned(), container_id, interface: "eth0".to_owned() }
}

/// One file for each address, named by it; and the last one, behind which the search goes on.
pub fn host_local(node: &Node) -> Result<()> {
    let folder = node.data.join(NETWORK_NAME);
    fs::create_dir_all(&folder)?;
    let first = u32::from(node.network_address()) + 2; // Behind the gateway.
    for number in 0..node.held {
        let address = Ipv4Addr::from(first + number);
        let Container { id, args: _ } = Container::new(number.into(), &node.owner);
        fs::write(folder.join(address.to_string()), format!("{id}\r\neth0"))?;
    }
    let last = Ipv4Addr::from((first + node.held).saturating_sub(1));
    fs::write(folder.join("last_reserved_ip.0"), last.to_string()).context("the cursor of host-local")
}
