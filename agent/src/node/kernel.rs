//! The kernel's routes: those of this agent, and where others lead.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cadastre_core::{Cidr, Family};
use futures::TryStreamExt;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, route::RouteScope};
use rtnetlink::{Error, Handle, RouteMessageBuilder};

use super::routes::Route;

/// Whose routes these are (`rtm_protocol`): a number that neither the kernel's list nor iproute2's gives to somebody. What
/// bears it is ours to remove, and nothing else is.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(202);

/// In a network that nobody has (RFC 5737, RFC 3849): what leads there is the default route.
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Why a route was not made.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Another router lies between.
    #[error("{0} is not on a link of this node")]
    OffLink(IpAddr),
    /// Not ours to replace.
    #[error("somebody else's route to {0} is in the way: remove it")]
    Taken(Cidr),
    #[error("the kernel refuses the route to {to} via {via}: {source}")]
    Refused { to: Cidr, via: IpAddr, source: io::Error },
}

/// Routes that bear our number, which makes them ours.
#[derive(Debug, Default)]
pub struct Ours {
    pub routes: Vec<Route>,
    pub strays: Vec<Stray>,
}

/// A route that no agent makes, such as one without a gateway: it is as the kernel told it, since that is how it is removed.
#[derive(Debug)]
pub struct Stray(RouteMessage);

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match destination(&self.0) {
            Some(to) => write!(f, "{to}"),
            None => f.write_str("an unknown destination"),
        }
    }
}

/// A connection to the kernel, in the network namespace of this process.
pub struct Kernel {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Kernel {
    pub fn open() -> io::Result<Self> {
        // Strict: the kernel then lists what is asked for and not a whole Internet of routes.
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// Routes of this agent, and of those before it.
    pub async fn ours(&self) -> io::Result<Ours> {
        let mut ours = Ours::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            question.header.protocol = PROTOCOL;
            let mut answers = self.handle.route().get(question).execute();
            loop {
                match answers.try_next().await {
                    // The kernel may not filter: before 4.20 it does not know how.
                    Ok(Some(message)) if is_ours(&message) => match read(&message) {
                        Some(route) => ours.routes.push(route),
                        None => ours.strays.push(Stray(message)),
                    },
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    // A kernel without IPv6.
                    Err(error) if family == AddressFamily::Inet6 && lacks_family(&error) => break,
                    Err(error) => return Err(cause(&error)),
                }
            }
        }
        Ok(ours)
    }

    pub async fn add(&self, route: &Route) -> Result<(), RouteError> {
        let Route { to, via } = *route;
        let refused = |source| RouteError::Refused { to, via, source };
        let message = message(route).map_err(refused)?;
        match self.handle.route().add(message).execute().await {
            Ok(()) => Ok(()),
            Err(error) => Err(match cause(&error).kind() {
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => RouteError::OffLink(via),
                io::ErrorKind::AlreadyExists => RouteError::Taken(to),
                _ => refused(cause(&error)),
            }),
        }
    }

    /// One that is gone already is removed.
    pub async fn remove(&self, route: &Route) -> io::Result<()> {
        self.delete(message(route)?).await
    }

    /// Likewise.
    pub async fn remove_stray(&self, Stray(message): &Stray) -> io::Result<()> {
        self.delete(message.clone()).await
    }

    async fn delete(&self, message: RouteMessage) -> io::Result<()> {
        match self.handle.route().del(message).execute().await {
            Ok(()) => Ok(()),
            // ESRCH: no such route.
            Err(Error::NetlinkError(error)) if error.raw_code() == -rustix::io::Errno::SRCH.raw_os_error() => Ok(()),
            Err(error) => Err(cause(&error)),
        }
    }

    /// The least MTU, in bytes, of the interfaces that lead to these addresses and out of the cluster; `None` if none does.
    pub async fn mtu_towards(&self, addresses: impl Iterator<Item = IpAddr>) -> io::Result<Option<u32>> {
        let mut links: Vec<u32> = Vec::new();
        for address in addresses.chain(ELSEWHERE) {
            links.extend(self.link_towards(address).await);
        }
        links.sort_unstable();
        links.dedup();
        let mut least = None;
        for link in links {
            let mtu = self.mtu_of(link).await?;
            least = least.into_iter().chain(mtu).min();
        }
        Ok(least)
    }

    /// Whether an interface like a pod's leads there: a link of its own, as `ptp` makes them.
    pub async fn leads_to_a_pod(&self, address: IpAddr) -> io::Result<bool> {
        let Some(link) = self.link_towards(address).await else { return Ok(false) };
        let link = self.handle.link().get().match_index(link).execute().try_next().await;
        let is_veth = |attribute: &LinkAttribute| {
            let LinkAttribute::LinkInfo(info) = attribute else { return false };
            info.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)))
        };
        match link {
            Ok(link) => Ok(link.is_some_and(|link| link.attributes.iter().any(is_veth))),
            // Gone since.
            Err(error) if cause(&error).raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(false),
            Err(error) => Err(cause(&error)),
        }
    }

    /// The interface that leads there. No route is no interface.
    async fn link_towards(&self, address: IpAddr) -> Option<u32> {
        let question = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(address, Family::of(address).bits())
            .ok()?
            .protocol(RouteProtocol::Unspec)
            .table_id(RouteHeader::RT_TABLE_UNSPEC.into())
            .kind(RouteType::Unspec)
            .scope(RouteScope::Universe)
            .build();
        let answer = self.handle.route().get(question).execute().try_next().await.ok()??;
        let leads = answer.header.kind == RouteType::Unicast;
        answer.attributes.iter().filter(|_| leads).find_map(|attribute| match attribute {
            RouteAttribute::Oif(link) => Some(*link),
            _ => None,
        })
    }

    async fn mtu_of(&self, link: u32) -> io::Result<Option<u32>> {
        let link = self.handle.link().get().match_index(link).execute().try_next().await;
        let link = link.map_err(|error| cause(&error))?;
        Ok(link.into_iter().flat_map(|link| link.attributes).find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(mtu),
            _ => None,
        }))
    }
}

/// Removes the routes of this agent, and of those before it. What is left behind is logged.
pub async fn remove_routes() {
    let left = |error: io::Error| tracing::error!(%error, "routes are left behind: ip route flush proto 202");
    let ours = async {
        let kernel = Kernel::open()?;
        let ours = kernel.ours().await?;
        io::Result::Ok((kernel, ours))
    };
    let (kernel, Ours { routes, strays }) = match ours.await {
        Ok(ours) => ours,
        Err(error) => return left(error),
    };
    for route in &routes {
        match kernel.remove(route).await {
            Ok(()) => tracing::info!(block = %route.to, via = %route.via, "route removed"),
            Err(error) => left(error),
        }
    }
    for stray in &strays {
        match kernel.remove_stray(stray).await {
            Ok(()) => tracing::info!(to = %stray, "route removed that no agent makes"),
            Err(error) => left(error),
        }
    }
}

fn message(route: &Route) -> io::Result<RouteMessage> {
    let Route { to, via } = route;
    let built = RouteMessageBuilder::<IpAddr>::new().destination_prefix(to.network(), to.prefix_len());
    let built = built.and_then(|built| built.gateway(*via));
    let built = built.map_err(|error| io::Error::other(error.to_string()))?;
    Ok(built.protocol(PROTOCOL).build())
}

/// In the table that we write. No block is everything: a default route is somebody else's whatever it bears, and without it the
/// node might be lost.
fn is_ours(route: &RouteMessage) -> bool {
    let RouteHeader { protocol, table, destination_prefix_length, .. } = route.header;
    protocol == PROTOCOL && table == RouteHeader::RT_TABLE_MAIN && destination_prefix_length > 0
}

/// `None` for what this agent makes none of.
fn read(route: &RouteMessage) -> Option<Route> {
    let via = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        _ => None,
    });
    Some(Route { to: destination(route)?, via: via? })
}

fn destination(route: &RouteMessage) -> Option<Cidr> {
    let to = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    Cidr::new(to?, route.header.destination_prefix_length).ok()
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn lacks_family(error: &Error) -> bool {
    cause(error).raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
}

/// What the kernel said.
fn cause(error: &Error) -> io::Error {
    match error {
        Error::NetlinkError(error) => error.to_io(),
        error => io::Error::other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    fn ip(arguments: &str) -> String {
        let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// In a network namespace of its own. Not without root.
    fn alone(test: impl AsyncFnOnce() + Send + 'static) {
        let thread = thread::spawn(move || {
            match unshare(CloneFlags::CLONE_NEWNET) {
                Err(nix::errno::Errno::EPERM) => return,
                unshared => unshared.unwrap(),
            }
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
        });
        thread.join().unwrap();
    }

    #[test]
    fn routes_that_bear_our_number_are_removed_and_no_others() {
        alone(async || {
            ip("link add d0 type veth peer name d1");
            ip("link set d1 up");
            ip("address add 192.168.7.1/24 dev d0");
            ip("address add fd77::1/64 dev d0 nodad");
            ip("link set d0 up");
            let ours = [
                "10.9.1.0/24 via 192.168.7.2 proto 202",
                "10.9.2.0/24 dev d0 proto 202",
                "10.9.3.0/24 dev d0 metric 7 proto 202",
                "unreachable 10.9.4.0/24 proto 202",
                "10.9.5.0/24 proto 202 nexthop via 192.168.7.2 nexthop via 192.168.7.3",
                "fd09:1::/64 via fd77::2 proto 202",
                "fd09:2::/64 dev d0 proto 202",
                "blackhole fd09:3::/64 proto 202",
            ];
            let others = [
                "10.8.1.0/24 dev d0",
                "10.8.2.0/24 dev d0 proto 201",
                "10.9.2.0/24 dev d0 metric 9 proto static",
                "10.8.3.0/24 dev d0 proto 202 table 7",
                "default dev d0 proto 202",
                "fd08:1::/64 dev d0",
                "fd08:2::/64 dev d0 proto 202 table 7",
                "default via fd77::2 proto 202",
            ];
            let add = |route: &str| {
                let family = if route.contains("fd") { "-6" } else { "-4" };
                ip(&format!("{family} route add {route}"));
            };
            let all = || ["-4", "-6"].map(|family| ip(&format!("{family} route show table all")));
            others.into_iter().for_each(add);
            let before = all();
            ours.into_iter().for_each(add);
            let Ours { routes, strays } = Kernel::open().unwrap().ours().await.unwrap();
            assert_eq!((routes.len(), strays.len()), (2, 6), "{strays:?}");
            remove_routes().await;
            assert_eq!(all(), before);
        });
    }
}
