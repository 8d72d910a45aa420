//! What the reference plugin host-local reserved for a network before: read, never written.
//!
//! ```text
//! <ipam.dataDir>/<network>/10.1.0.5             container ID, line end, interface (older: the container ID alone)
//! <ipam.dataDir>/<network>/last_reserved_ip.0   where the search in set 0 goes on
//! <ipam.dataDir>/<network>/lock                 and anything else: not read
//! ```
//!
//! host-local's records name no namespace, and it never learns that the node rebooted, so not all of them are alive. The
//! runtime's cache of results knows the namespace of what is attached now: with an entry there, the namespace has to exist;
//! without one the attachment has ended, and its DEL came when host-local was not asked any more. If the runtime keeps no cache
//! the record has to be of this boot, since a reboot ends every namespace.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cadastre_messages::{Attachment, LastReserved, Reservation, code};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::netconf::field;
use crate::{cache, log, names, netns, regular};

/// Where host-local keeps its state unless told otherwise.
const DATA: &str = "/var/lib/cni/networks";

const LAST: &str = "last_reserved_ip.";

/// Of a record, in bytes: a container ID and an interface need far less.
const LONGEST_RECORD: u64 = 4096;

/// Of a container ID that the agent takes; no runtime makes such long ones.
const LONGEST_ID: usize = 256;

/// The interface of records that name none.
const OLD_INTERFACE: &str = "eth0";

/// Clocks are set right soon after boot, which moves the start of this boot, seen from now. What is wrongly taken for
/// alive is held in vain until the next boot; the other way round an address would be given twice.
const CLOCK_STEP: Duration = Duration::from_mins(1);

/// All that is in use.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    pub reservations: Vec<Reservation>,
    pub last: Vec<LastReserved>,
}

/// The network's folder.
pub fn folder(ipam: &Map<String, Value>, network: &str) -> Result<PathBuf, Error> {
    let data = match field(ipam, "dataDir") {
        None => DATA,
        Some(Value::String(path)) if path.is_empty() => DATA,
        Some(Value::String(path)) => path,
        other => {
            return Err(Error::of_key("ipam.dataDir", other, "name host-local's folder by its path, or leave it out"));
        }
    };
    Ok(Path::new(data).join(network))
}

/// Reads the folder; without one nothing is in use.
pub fn read(folder: &Path, network: &str) -> Result<Reserved, Error> {
    read_beside(folder, network, cache::is_kept())
}

/// `cached`: whether the runtime keeps a cache, so that what it does not list has ended.
fn read_beside(folder: &Path, network: &str, cached: bool) -> Result<Reserved, Error> {
    let unreadable = |path: &Path, error: io::Error| {
        let message = format!("host-local's state of network {network:?} cannot be read: {}: {error}", path.display());
        let remedy = "no address is given before it is known which are in use; make it readable, or name another folder in ipam.dataDir";
        Error::new(code::IO, message, remedy)
    };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Reserved::default()),
        entries => entries.map_err(|error| unreadable(folder, error))?,
    };
    let mut reserved = Reserved::default();
    let boot = boot().map_err(|error| unreadable(Path::new("/proc/uptime"), error))?;
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        let Some(kind) = path.file_name().and_then(|name| Kind::of(name.to_str()?)) else { continue };
        let record = match Record::read(&path) {
            Ok(Some(record)) => record,
            Ok(None) => {
                skip(&path, "it is no file");
                continue;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => continue, // Released just now.
            Err(error) => return Err(unreadable(&path, error)),
        };
        let now = Now { boot, cached };
        reserved.add(&path, kind, &record, network, now);
    }
    // Folders have no order. What an attachment holds is told together.
    reserved
        .reservations
        .sort_by_cached_key(|reservation| (reservation.attachment.clone(), reservation.address.parse::<IpAddr>().ok()));
    reserved.last.sort_by_key(|last| last.set);
    Ok(reserved)
}

fn skip(path: &Path, why: &str) {
    log::line(&format!("{} of host-local is not taken over: {why}", path.display()));
}

/// When this boot began, at the latest.
fn boot() -> io::Result<SystemTime> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let seconds = uptime.split(['.', ' ']).next().and_then(|seconds| seconds.parse().ok());
    let seconds: u64 = seconds.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("it says {uptime:?}")))?;
    Ok(SystemTime::now().checked_sub(Duration::from_secs(seconds) + CLOCK_STEP).unwrap_or(SystemTime::UNIX_EPOCH))
}

/// What a record is compared with.
#[derive(Clone, Copy)]
struct Now {
    /// When this boot began, at the latest.
    boot: SystemTime,
    /// The runtime keeps a cache of results.
    cached: bool,
}

/// What a file is, by its name.
#[derive(Clone, Copy)]
enum Kind {
    Address(IpAddr),
    Last(usize),
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        match name.strip_prefix(LAST) {
            Some(set) => set.parse().ok().map(Self::Last),
            None => name.parse().ok().map(Self::Address),
        }
    }
}

struct Record {
    text: String,
    metadata: Metadata,
}

impl Record {
    /// `None` for what is no file.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let Some((file, metadata)) = regular::open(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(LONGEST_RECORD).read_to_end(&mut bytes)?;
        Ok(Some(Self { text: String::from_utf8_lossy(&bytes).into_owned(), metadata }))
    }

    /// Container ID and interface.
    fn holder(&self) -> Option<(&str, &str)> {
        let mut lines = self.text.lines().map(str::trim);
        let container_id = lines.next().filter(|id| names::is_identifier(id) && id.len() <= LONGEST_ID)?;
        let interface = lines.next().unwrap_or(OLD_INTERFACE);
        names::is_interface(interface).then_some((container_id, interface))
    }

    fn is_of_this_boot(&self, boot: SystemTime) -> bool {
        // A file system without times: unknown is not gone.
        self.metadata.modified().map_or(true, |modified| modified >= boot)
    }
}

impl Reserved {
    fn add(&mut self, path: &Path, kind: Kind, record: &Record, network: &str, now: Now) {
        match kind {
            Kind::Last(set) => match record.text.trim().parse::<IpAddr>() {
                Ok(address) => self.last.push(LastReserved { set, address: address.to_string() }),
                Err(_) => skip(path, "it holds no address"),
            },
            Kind::Address(address) => {
                let Some((container_id, interface)) = record.holder() else {
                    return skip(path, "it names no container");
                };
                let (container_id, interface) = (container_id.to_owned(), interface.to_owned());
                let attachment = Attachment { network: network.to_owned(), container_id, interface };
                match reservation(address, attachment, record, now) {
                    Ok(reservation) => self.reservations.push(reservation),
                    Err(why) => skip(path, &why),
                }
            }
        }
    }
}

/// The reservation, or why nobody can hold it.
fn reservation(address: IpAddr, attachment: Attachment, record: &Record, now: Now) -> Result<Reservation, String> {
    let entry = match cache::entry(&attachment) {
        None if now.cached => return Err("the runtime does not know of it any more".into()),
        entry => entry.unwrap_or_default(),
    };
    let netns = match &entry.netns {
        Some(path) => netns::if_there(path).ok_or_else(|| format!("its namespace {} is gone", path.display()))?,
        None if record.is_of_this_boot(now.boot) => netns::unknown(),
        None => return Err("it was made before this boot, and no namespace outlives one".into()),
    };
    Ok(Reservation { address: address.to_string(), attachment, netns, pod: entry.pod })
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::process;

    use super::*;

    /// A folder of this test's own, removed at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("cadastre-host-local-{}-{name}", process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn with(self, name: &str, text: &str) -> Self {
            fs::write(self.0.join(name), text).unwrap();
            self
        }

        fn aged(self, name: &str) -> Self {
            let file = fs::File::options().write(true).open(self.0.join(name)).unwrap();
            file.set_modified(boot().unwrap() - Duration::from_secs(1)).unwrap();
            self
        }

        /// Address, container ID and interface of each reservation.
        fn reserved(&self) -> Vec<(String, String, String)> {
            let reservations = read_beside(&self.0, "net", false).unwrap().reservations;
            let row = |reservation: Reservation| {
                let Attachment { container_id, interface, .. } = reservation.attachment;
                (reservation.address, container_id, interface)
            };
            reservations.into_iter().map(row).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn row(address: &str, container_id: &str, interface: &str) -> (String, String, String) {
        (address.into(), container_id.into(), interface.into())
    }

    #[test]
    fn l4_records_of_every_release_are_read_and_others_are_left_out() {
        let folder = Folder::new("records")
            .with("10.1.0.10", "c1\r\neth0")
            .with("10.1.0.9", "c2\r\nnet1")
            .with("10.1.0.11", "old\n")
            .with("fd00::5", " c1 \r\neth0\r\n")
            .with("10.1.0.12", "")
            .with("10.1.0.13", "../c\r\neth0")
            .with("10.1.0.14", "c1\r\na/b")
            .with("10.1.0.999", "c1\r\neth0")
            .with("lock", "");
        fs::create_dir(folder.0.join("10.1.0.15")).unwrap();
        let expected = [
            row("10.1.0.10", "c1", "eth0"),
            row("fd00::5", "c1", "eth0"),
            row("10.1.0.9", "c2", "net1"),
            row("10.1.0.11", "old", "eth0"),
        ];
        assert_eq!(folder.reserved(), expected);
        let cached = read_beside(&folder.0, "net", true).unwrap().reservations;
        assert_eq!(cached, [], "the runtime would know of them if they lived");
    }

    #[test]
    fn what_another_boot_left_is_nobodys() {
        let folder =
            Folder::new("boots").with("10.1.0.5", "c1\r\neth0").with("10.1.0.6", "c2\r\neth0").aged("10.1.0.6");
        assert_eq!(folder.reserved(), [row("10.1.0.5", "c1", "eth0")]);
    }

    #[test]
    fn the_searches_go_on_where_they_were() {
        let folder = Folder::new("last")
            .with("last_reserved_ip.10", "fd00::5")
            .with("last_reserved_ip.0", "10.1.0.5\n")
            .with("last_reserved_ip.1", "")
            .with("last_reserved_ip.x", "10.1.0.5");
        let last = |set, address: &str| LastReserved { set, address: address.into() };
        assert_eq!(read(&folder.0, "net").unwrap().last, [last(0, "10.1.0.5"), last(10, "fd00::5")]);
    }

    #[test]
    fn no_folder_is_nothing_and_an_unreadable_one_is_an_error() {
        let folder = Folder::new("unreadable").with("file", "");
        assert_eq!(read(&folder.0.join("none"), "net"), Ok(Reserved::default()));
        let error = read(&folder.0.join("file"), "net").unwrap_err();
        assert!(error.failure.code == code::IO && error.failure.msg.contains("\"net\""), "{error:?}");
    }
}
