//! The kernel's routes: those of this agent, and where others lead.

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
    pub async fn ours(&self) -> io::Result<Vec<Route>> {
        let mut ours = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            question.header.protocol = PROTOCOL;
            let mut answers = self.handle.route().get(question).execute();
            loop {
                match answers.try_next().await {
                    // The kernel may not filter: before 4.20 it does not know how.
                    Ok(Some(route)) if is_ours(&route) => ours.extend(read(&route)),
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
        match self.handle.route().del(message(route)?).execute().await {
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
    let (kernel, ours) = match ours.await {
        Ok(ours) => ours,
        Err(error) => return left(error),
    };
    for route in &ours {
        match kernel.remove(route).await {
            Ok(()) => tracing::info!(block = %route.to, via = %route.via, "route removed"),
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

fn is_ours(route: &RouteMessage) -> bool {
    route.header.protocol == PROTOCOL && route.header.table == RouteHeader::RT_TABLE_MAIN
}

/// `None` for what this agent makes none of, such as a route to everything.
fn read(route: &RouteMessage) -> Option<Route> {
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    let (mut to, mut via) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Gateway(address) => via = ip(address),
            _ => {}
        }
    }
    Some(Route { to: Cidr::new(to?, route.header.destination_prefix_length).ok()?, via: via? })
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
