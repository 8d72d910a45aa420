//! The real socket in a folder of the test's own, with callers of every kind.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cadastre_api::Mode;
use cadastre_messages::{Add, Call, Check, Del, Gc, Netns, Pod, Reply, Request, Status, Tombstone, ValidAttachment};
use cadastre_runtime::Trigger;
use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::boot_time::BootTime;
use crate::outlook::{Cluster, Outlook};
use crate::pools::fixtures::{assigned, attachment, opener};
use crate::report::Identity;
use crate::survey::tests::cached;
use crate::tombstones::Tombstones;

const BOOT: &str = "boot-1";

/// An agent without a cluster.
struct Agent {
    folder: PathBuf,
    to_owner: mpsc::UnboundedSender<Message>,
    outlook: watch::Receiver<Outlook>,
    stop: Trigger,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    fn start(folder: &Path) -> Self {
        Self::start_with(folder, State::open(opener(folder, BOOT)))
    }

    fn start_with(folder: &Path, state: State) -> Self {
        let socket = Socket::listen(&folder.join("cadastre.sock"), "agent of node n1").unwrap();
        let tombstones = Tombstones::open(folder, BOOT).unwrap();
        let metrics = Metrics::new(&mut cadastre_runtime::Catalog::new("test"));
        let (outlook_to, outlook) = watch::channel(Outlook::default());
        let (_, cluster) = watch::channel(Cluster { version: Some("1.36 (v1.36.3)".into()), ..Cluster::default() });
        let identity = Identity { node: "n1".into(), configured: Mode::ClusterPool };
        let owner = Owner::new(identity, state, tombstones, metrics.clone(), outlook_to, cluster);
        let (to_owner, queue) = mpsc::unbounded_channel();
        let (stop, shutdown) = Shutdown::manual();
        let (annotations, _) = crate::kube::Annotations::new(crate::kube::Pods::default());
        let front = Front { owner: to_owner.clone(), annotations, metrics };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(socket, owner, queue, front, shutdown)).unwrap();
        });
        Self { folder: folder.to_owned(), to_owner, outlook, stop, thread: Some(thread) }
    }

    fn assign(&self, blocks: &[&str]) {
        self.to_owner.send(Message::Event(assigned(blocks))).unwrap();
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.folder.join("cadastre.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    fn ask(&self, call: &Call) -> Reply {
        let mut stream = self.connect();
        send(&mut stream, call);
        receive(stream)
    }

    fn waiting(&self, count: usize) {
        until(|| self.outlook.borrow().view.waiting == count);
    }

    fn held(&self) -> usize {
        let Reply::Report(report) = self.ask(&Call::Report) else { panic!("no report") };
        report.addresses.iter().filter(|row| row.attachment.is_some()).count()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.fire();
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn until(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "it does not come true");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn add(name: &str) -> Call {
    let netns = Netns { path: format!("/nowhere/{name}"), device: 0, inode: 0 };
    let pod = Some(Pod { namespace: "default".into(), name: name.into(), uid: None });
    Call::Add(Add::new(attachment(name), netns, pod))
}

fn del(name: &str) -> Call {
    Call::Del(Del { attachment: attachment(name) })
}

fn send(stream: &mut UnixStream, call: &Call) {
    let mut line = serde_json::to_vec(&Request::new(call.clone())).unwrap();
    line.push(b'\n');
    stream.write_all(&line).unwrap();
}

fn receive(stream: UnixStream) -> Reply {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

/// The address given, the code of the error, or `ok`.
fn said(reply: &Reply) -> String {
    match reply {
        Reply::Ok => "ok".into(),
        Reply::Given(given) => {
            given.addresses.iter().map(|given| given.address.as_str()).collect::<Vec<_>>().join(", ")
        }
        Reply::Error(failure) => failure.code.to_string(),
        Reply::Report(_) => "report".into(),
        Reply::Explanation(_) => "explanation".into(),
        Reply::TakeOver => "take over".into(),
    }
}

#[test]
fn a_life_cycle_over_the_socket() {
    let folder = TempDir::new().unwrap();
    let agent = Agent::start(folder.path());
    assert_eq!(said(&agent.ask(&Call::Status(Status::default()))), "50");
    agent.assign(&["10.0.2.0/24"]);
    assert_eq!(said(&agent.ask(&add("a"))), "10.0.2.2/24");
    assert_eq!(said(&agent.ask(&add("a"))), "10.0.2.2/24");
    assert_eq!(said(&agent.ask(&add("b"))), "10.0.2.3/24");
    let check = |addresses: &[&str]| {
        let addresses = addresses.iter().map(ToString::to_string).collect();
        said(&agent.ask(&Call::Check(Check { attachment: attachment("a"), addresses })))
    };
    assert_eq!(check(&["10.0.2.2"]), "ok");
    assert_eq!(check(&["10.0.2.3"]), "105");
    assert_eq!(said(&agent.ask(&Call::Status(Status::default()))), "ok");
    assert_eq!(said(&agent.ask(&del("a"))), "ok");
    assert_eq!(said(&agent.ask(&del("a"))), "ok");
    assert_eq!(said(&agent.ask(&del("unknown"))), "ok");
    assert_eq!(agent.held(), 1);
    let valid = vec![ValidAttachment { container_id: "c".into(), interface: "eth0".into() }];
    assert_eq!(said(&agent.ask(&Call::Gc(Gc { network: "other".into(), valid: valid.clone() }))), "ok");
    assert_eq!(agent.held(), 1);
    assert_eq!(said(&agent.ask(&Call::Gc(Gc { network: "net".into(), valid }))), "ok");
    assert_eq!(agent.held(), 0);
}

#[test]
fn a_pod_wakes_nobody_who_waits_for_news_until_it_has_the_last_address() {
    let folder = TempDir::new().unwrap();
    let agent = Agent::start(folder.path());
    agent.assign(&["10.0.2.0/29"]);
    let share = || agent.outlook.borrow().view.shares.first().map(|share| (share.counts.allocated, share.has_any));
    until(|| share().is_some());
    let (before, _) = share().unwrap();
    let mut outlook = agent.outlook.clone();
    outlook.mark_unchanged();
    agent.ask(&add("a"));
    until(|| share() == Some((before + 1, true)));
    assert!(!outlook.has_changed().unwrap());
    let more = (0..8).take_while(|number| said(&agent.ask(&add(&number.to_string()))).contains('.')).count() as u64;
    until(|| share() == Some((before + 1 + more, false)));
    assert!(outlook.has_changed().unwrap());
}

#[test]
fn gc_frees_nothing_whose_namespace_lives() {
    let folder = TempDir::new().unwrap();
    let agent = Agent::start(folder.path());
    agent.assign(&["10.0.2.0/24"]);
    let path = folder.path().join("netns");
    fs::write(&path, "").unwrap();
    let there = fs::metadata(&path).unwrap();
    let (device, inode) = (std::os::unix::fs::MetadataExt::dev(&there), std::os::unix::fs::MetadataExt::ino(&there));
    let netns = Netns { path: path.display().to_string(), device, inode };
    agent.ask(&Call::Add(Add::new(attachment("a"), netns, None)));
    let gc = Call::Gc(Gc { network: "net".into(), valid: vec![] });
    agent.ask(&gc);
    assert_eq!(agent.held(), 1);
    fs::remove_file(path).unwrap();
    agent.ask(&gc);
    assert_eq!(agent.held(), 0);
}

#[test]
fn a_restart_keeps_addresses_and_a_second_agent_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let agent = Agent::start(folder.path());
    agent.assign(&["10.0.2.0/24"]);
    let given = said(&agent.ask(&add("a")));
    let refused = Socket::listen(&folder.path().join("cadastre.sock"), "agent of node n2").unwrap_err().to_string();
    assert!(refused.contains("is in use by agent of node n1"), "{refused}");
    drop(agent);
    fs::write(folder.path().join("cadastre.sock"), "what a dead agent left").unwrap();
    let agent = Agent::start(folder.path());
    assert_eq!(said(&agent.ask(&add("a"))), given);
    assert_eq!(said(&agent.ask(&add("b"))), "10.0.2.3/24", "served from the last assignment of this boot");
}

#[test]
fn the_socket_and_its_folder_are_for_root_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let place = folder.path().join("made/for/it");
    let agent = Agent::start(&place);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place), 0o700);
    assert_eq!(mode(&place.join("cadastre.sock")), 0o600);
    assert_eq!(mode(&place.join("tombstones")), 0o700);
    assert_eq!(mode(&place.join("journal")), 0o600);
    drop(agent);
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    drop(Agent::start(&place));
    assert_eq!(mode(&place), 0o700, "made by kubelet, for us alone");
    fs::write(place.join("somebody-elses"), "").unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    drop(Agent::start(&place));
    assert_eq!(mode(&place), 0o755, "not ours alone");
}

#[test]
fn a_removed_folder_is_there_again_with_socket_and_journal() {
    let folder = TempDir::new().unwrap();
    let place = folder.path().join("run");
    let agent = Agent::start(&place);
    agent.assign(&["10.0.2.0/24"]);
    let given = said(&agent.ask(&add("a")));
    fs::remove_dir_all(&place).unwrap();
    until(|| UnixStream::connect(place.join("cadastre.sock")).is_ok());
    assert_eq!(said(&agent.ask(&add("a"))), given);
    drop(agent);
    let agent = Agent::start(&place);
    assert_eq!(said(&agent.ask(&add("a"))), given);
}

#[test]
fn a_removed_socket_is_there_again_while_its_lock_is_ours() {
    let folder = TempDir::new().unwrap();
    let agent = Agent::start(folder.path());
    let socket = folder.path().join("cadastre.sock");
    fs::remove_file(&socket).unwrap();
    until(|| UnixStream::connect(&socket).is_ok());
    assert_eq!(said(&agent.ask(&del("a"))), "ok");
    let second = Socket::listen(&socket, "agent of node n2").unwrap_err().to_string();
    assert!(second.contains("is in use by agent of node n1"), "{second}");
}

#[test]
fn garbage_gets_an_error_and_costs_nobody_else_anything() {
    let folder = TempDir::new().unwrap();
    let agent = Agent::start(folder.path());
    agent.assign(&["10.0.2.0/24"]);
    let table: [(&[u8], &str); 6] = [
        (b"{}\n", "6"),
        (b"\xff\xfe\n", "6"),
        (b"{\"protocol\":2,\"verb\":\"status\"}\n", "6"),
        (b"{\"protocol\":1,\"verb\":\"levitate\"}\n", "6"),
        (b"{\"protocol\":1,\"verb\":\"del\",\"attachment\":{\"network\":\"\",\"containerId\":\"\",\"interface\":\"\"}}\n", "ok"),
        (
            b"{\"protocol\":1,\"verb\":\"add\",\"attachment\":{\"network\":\"n\",\"containerId\":\"\",\"interface\":\"e\"},\
              \"netns\":{\"path\":\"\",\"device\":0,\"inode\":0}}\n",
            "4",
        ),
    ];
    for (line, expected) in table {
        let mut stream = agent.connect();
        stream.write_all(line).unwrap();
        assert_eq!(said(&receive(stream)), expected, "{}", String::from_utf8_lossy(line));
    }
    let mut huge = agent.connect();
    huge.write_all(&vec![b'x'; cadastre_messages::MAX_LINE]).unwrap();
    assert_eq!(said(&receive(huge)), "6");
    let mut half = agent.connect();
    half.write_all(b"{\"protocol\":1,").unwrap();
    let mut slow = agent.connect();
    send(&mut slow, &Call::Report); // And never reads.
    assert_eq!(said(&agent.ask(&add("a"))), "10.0.2.2/24");
    drop(half);
}

#[test]
fn another_protocol_is_told_by_its_number_whatever_else_the_line_says() {
    let said = |line: &[u8]| connection::parse(line).unwrap_err().to_string();
    assert!(said(b"{\"protocol\":2,\"verb\":\"levitate\"}").starts_with("the caller speaks protocol 2,"));
    assert!(said(b"{\"protocol\":1,\"verb\":\"levitate\"}").starts_with("the request cannot be read"));
    assert!(said(b"{\"protocol\":2,").starts_with("the request cannot be read"));
}

#[test]
fn callers_that_never_finish_their_line_give_way_to_others() {
    let folder = TempDir::new().unwrap();
    let agent = Agent::start(folder.path());
    agent.assign(&["10.0.2.0/24"]);
    let mut half: Vec<UnixStream> = (0..400)
        .map(|_| {
            let mut stream = agent.connect();
            stream.write_all(b"{\"protocol\":1").unwrap();
            stream
        })
        .collect();
    for n in 0..50 {
        assert!(said(&agent.ask(&add(&n.to_string()))).ends_with("/24"));
    }
    let mut refused = String::new();
    BufReader::new(half.remove(0)).read_line(&mut refused).unwrap();
    assert!(refused.contains("half a line, and too many other callers wait"), "{refused}");
    // Who was not in the way may still say the rest.
    let mut last = half.pop().unwrap();
    last.write_all(b",\"verb\":\"status\"}\n").unwrap();
    assert_eq!(said(&receive(last)), "ok");
}

#[test]
fn white_space_does_not_make_another_attachment() {
    let folder = TempDir::new().unwrap();
    let agent = Agent::start(folder.path());
    agent.assign(&["10.0.2.0/24"]);
    agent.ask(&add("a"));
    let Call::Del(mut stray) = del("a") else { unreachable!() };
    stray.attachment.container_id.push_str(" \n");
    agent.ask(&Call::Del(stray));
    assert_eq!(agent.held(), 0);
}

#[test]
fn two_hundred_waiters_are_served_when_the_assignment_comes() {
    let folder = TempDir::new().unwrap();
    let agent = Agent::start(folder.path());
    let mut callers: Vec<UnixStream> = (0..300)
        .map(|n| {
            let mut stream = agent.connect();
            send(&mut stream, &add(&n.to_string()));
            stream
        })
        .collect();
    // More than may be served at once: they wait, and do not count.
    agent.waiting(300);
    assert_eq!(said(&agent.ask(&Call::Status(Status::default()))), "50", "others are served meanwhile");
    agent.ask(&del("7"));
    assert_eq!(said(&receive(callers.remove(7))), "11", "cancelled");
    drop(callers.remove(7)); // That was 8.
    agent.waiting(298);
    agent.assign(&["10.0.0.0/16"]);
    let given: std::collections::BTreeSet<String> = callers.into_iter().map(|caller| said(&receive(caller))).collect();
    assert_eq!(given.len(), 298);
    assert!(given.iter().all(|given| given.ends_with("/16")), "{given:?}");
    assert_eq!(agent.held(), 298);
}

#[test]
fn a_caller_that_only_closed_its_sending_side_still_gets_its_answer() {
    let folder = TempDir::new().unwrap();
    let agent = Agent::start(folder.path());
    let mut stream = agent.connect();
    send(&mut stream, &add("a"));
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    agent.waiting(1);
    agent.assign(&["10.0.2.0/24"]);
    assert_eq!(said(&receive(stream)), "10.0.2.2/24");
}

#[test]
fn an_allocation_that_nobody_read_of_is_undone_and_one_that_was_read_is_not() {
    let folder = TempDir::new().unwrap();
    let agent = Agent::start(folder.path());
    agent.assign(&["10.0.2.0/24"]);
    let mut dies = agent.connect();
    send(&mut dies, &add("a"));
    let mut first = [0; 1];
    dies.read_exact(&mut first).unwrap(); // The reply is there, and is not read to its end.
    drop(dies);
    until(|| agent.held() == 0);
    assert_eq!(said(&agent.ask(&add("b"))), "10.0.2.3/24");
    assert_eq!(agent.held(), 1);
}

#[test]
fn callers_that_die_at_once_leave_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let agent = Agent::start(folder.path());
    agent.assign(&["10.0.0.0/16"]);
    for n in 0..500 {
        send(&mut agent.connect(), &add(&n.to_string()));
    }
    assert!(said(&agent.ask(&add("stays"))).ends_with("/16"));
    until(|| agent.held() == 1);
}

#[test]
fn tombstones_are_replayed_before_the_first_add_and_whenever_they_come() {
    let folder = TempDir::new().unwrap();
    let leave = |name: &str, at: u64| {
        let tombstone =
            Tombstone { protocol: cadastre_messages::PROTOCOL, boot_id: BOOT.into(), at, attachment: attachment(name) };
        let text = serde_json::to_vec(&tombstone).unwrap();
        fs::write(folder.path().join(format!("tombstones/{name}.json")), text).unwrap();
    };
    let now = || BootTime::now().hundredths();
    let agent = Agent::start(folder.path());
    agent.assign(&["10.0.2.0/30"]);
    for name in ["a", "b", "c", "d"] {
        agent.ask(&add(name));
    }
    drop(agent);
    leave("a", now());
    leave("b", now() - 100_000);
    let agent = Agent::start(folder.path());
    assert_eq!(said(&agent.ask(&add("e"))), "10.0.2.0/30", "a's, since nothing else is free");
    assert_eq!(said(&agent.ask(&add("f"))), "101", "b's was older than its ADD");
    leave("c", now());
    until(|| agent.held() == 3);
    let left = || fs::read_dir(folder.path().join("tombstones")).unwrap().count();
    until(|| left() == 0);
    leave("b", now() - 100_000);
    assert_eq!(said(&agent.ask(&add("b"))), "10.0.2.1/30");
    assert_eq!(left(), 0, "an ADD consumes those of before");
}

#[test]
fn with_a_damaged_journal_nothing_is_given_until_the_node_says_what_lives() {
    let folder = TempDir::new().unwrap();
    let lives = folder.path().join("lives");
    fs::write(&lives, "").unwrap();
    let addresses = {
        let agent = Agent::start(folder.path());
        agent.assign(&["10.0.2.0/29"]);
        ["a", "b", "c"].map(|name| said(&agent.ask(&add(name))))
    };
    let journal = folder.path().join("journal");
    let mut bytes = fs::read(&journal).unwrap();
    bytes[100] ^= 1;
    fs::write(&journal, &bytes).unwrap();
    let results = folder.path().join("cni/results");
    fs::create_dir(folder.path().join("cni")).unwrap();
    fs::write(&results, "it cannot be read").unwrap();

    let agent = Agent::start(folder.path());
    agent.assign(&["10.0.2.0/29"]);
    assert_eq!(said(&agent.ask(&add("a"))), "11");
    assert_eq!(said(&agent.ask(&Call::Status(Status::default()))), "50");
    assert_eq!(said(&agent.ask(&del("b"))), "11", "so that the plugin leaves a tombstone");
    let Reply::Report(report) = agent.ask(&Call::Report) else { panic!("no report") };
    assert!(!report.journal.ok && report.journal.message.contains("cni/results"), "{report:?}");

    fs::remove_file(&results).unwrap();
    let ipam = serde_json::json!({"type": "cadastre"});
    for (name, address) in ["a", "b"].iter().zip(&addresses) {
        cached(&folder.path().join("cni"), name, Some(&lives), &ipam, &[address]);
    }
    until(|| said(&agent.ask(&Call::Status(Status::default()))) == "ok");
    assert_eq!(agent.held(), 1, "the DEL that came meanwhile was not forgotten");
    assert_eq!(said(&agent.ask(&add("a"))), addresses[0]);
    assert_eq!(fs::read(folder.path().join("journal.damaged")).unwrap(), bytes);
    drop(agent);
    let agent = Agent::start(folder.path());
    assert_eq!((agent.held(), said(&agent.ask(&add("a")))), (1, addresses[0].clone()));
}

#[test]
fn a_journal_that_is_missing_while_pods_live_is_made_from_them() {
    let folder = TempDir::new().unwrap();
    let lives = folder.path().join("lives");
    fs::write(&lives, "").unwrap();
    cached(&folder.path().join("cni"), "a", Some(&lives), &serde_json::json!({"type": "cadastre"}), &["10.0.2.2/29"]);
    let agent = Agent::start(folder.path());
    agent.assign(&["10.0.2.0/29"]);
    let others: Vec<String> = ["b", "c", "d", "e", "f"].iter().map(|name| said(&agent.ask(&add(name)))).collect();
    assert_eq!(others[4], "101");
    assert!(!others.contains(&"10.0.2.2/29".to_owned()), "{others:?}");
    assert_eq!(said(&agent.ask(&add("a"))), "10.0.2.2/29");
}
