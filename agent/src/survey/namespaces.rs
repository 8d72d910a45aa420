//! The network namespaces of this node, and the addresses in each.
//!
//! ```text
//! /run/netns/*  ─▶ a thread enters one after the other ─▶ RTM_GETADDR ─▶ addresses, without loopback and link-local
//! ```
//! A thread of its own, because a namespace belongs to a thread, and the others must stay where they are.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::SurveyError;
use crate::record::NetnsRecord;

/// One namespace.
#[derive(Debug)]
pub struct Space {
    pub netns: NetnsRecord,
    pub addresses: Vec<IpAddr>,
}

/// All that lie in `folder`. A folder that is not there has none.
pub fn read(folder: &Path) -> Result<Vec<Space>, SurveyError> {
    let unreadable = |source| SurveyError::Unreadable { path: folder.to_owned(), source };
    let mut paths: Vec<PathBuf> = Vec::new();
    match fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                paths.push(entry.map_err(unreadable)?.path());
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(error)),
    }
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let looks = thread::Builder::new().name("survey".to_owned()).spawn(move || look_into(paths)).map_err(unreadable)?;
    looks.join().unwrap_or_else(|_| Err(unreadable(io::Error::other("the thread that looked has failed"))))
}

fn look_into(paths: Vec<PathBuf>) -> Result<Vec<Space>, SurveyError> {
    let mut spaces = Vec::with_capacity(paths.len());
    for path in paths {
        match enter(&path) {
            Ok(Some(netns)) => {
                let addresses = addresses().map_err(|source| SurveyError::Closed { path, source })?;
                spaces.push(Space { netns, addresses });
            }
            Ok(None) => {}
            Err(source) => return Err(SurveyError::Closed { path, source }),
        }
    }
    Ok(spaces)
}

/// `None` for what is no namespace, or is gone by now.
fn enter(path: &Path) -> io::Result<Option<NetnsRecord>> {
    // Nor may a pipe that somebody put there stop us.
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)) {
        Ok(()) => {}
        Err(Errno::INVAL) => return Ok(None), // Where a namespace was mounted once, or will be.
        Err(error) => return Err(error.into()),
    }
    let there = file.metadata()?;
    let path = path.display().to_string();
    Ok(Some(NetnsRecord { path, device: there.dev(), inode: there.ino(), seen: true }))
}

/// Of the namespace that this thread is in.
fn addresses() -> io::Result<Vec<IpAddr>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let messages: Vec<_> = handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| io::Error::other(error.to_string()))?;
        connection.abort();
        Ok(messages.into_iter().filter_map(|message| own(&message.attributes)).filter(is_a_pods).collect())
    })
}

/// Of an interface to one peer `Address` is the peer's, and `Local` the interface's own.
fn own(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    local.or(address)
}

/// Neither loopback nor link-local.
fn is_a_pods(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_loopback() && !link_local
}
