//! Who reaches whom. Each pod connects to the next 16 by the name of their nodes, so that the work grows with the number of
//! nodes and not with its square, and every pod is connected to from as many.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::time::{Instant, sleep};

use super::answer::ask;
use super::pods::TestPod;
use super::{Answer, Ask};

/// Others that each pod connects to.
const OTHERS: usize = 16;
/// Pods that are asked at once.
const AT_ONCE: usize = 32;
/// Nodes that came just now get their routes within seconds.
const TRIES: usize = 4;
const BETWEEN: Duration = Duration::from_secs(2);
/// Longer than a pod takes to try its 16, all at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// For everything: `helm test` gives up after 5 minutes, of which the pods may take 2.
const IN_ALL: Duration = Duration::from_secs(100);

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// Connections that were tried, also those from this process to each pod.
    pub ways: usize,
    pub failed: Vec<Failed>,
}

/// A way that nobody came through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub from: String,
    pub to: String,
    pub address: IpAddr,
    pub why: String,
}

/// One pod to be asked at one address, with those it is to reach from there, and their nodes.
struct Task {
    node: String,
    address: IpAddr,
    others: BTreeMap<IpAddr, String>,
}

/// Tries every way, the failed ones again.
pub(super) async fn all(pods: &[TestPod]) -> Reached {
    let (tasks, end) = (tasks(pods), Instant::now() + IN_ALL);
    let ways = tasks.iter().map(|task| 1 + task.others.len()).sum();
    let failed = stream::iter(tasks).map(|task| tried(task, end)).buffer_unordered(AT_ONCE).concat().await;
    Reached { ways, failed }
}

fn tasks(pods: &[TestPod]) -> Vec<Task> {
    let task = |(place, address): (usize, IpAddr)| {
        let others = pods.iter().cycle().skip(place + 1).take(OTHERS.min(pods.len() - 1));
        let same_family = others.flat_map(|other| {
            let addresses = other.addresses.iter().filter(move |one| one.is_ipv4() == address.is_ipv4());
            addresses.map(|one| (*one, other.node.clone()))
        });
        Task { node: pods[place].node.clone(), address, others: same_family.collect() }
    };
    let places = pods.iter().enumerate();
    places.flat_map(|(place, pod)| pod.addresses.iter().map(move |address| (place, *address))).map(task).collect()
}

async fn tried(task: Task, end: Instant) -> Vec<Failed> {
    let mut failed = judge(&task, Err(format!("not tried within {} s", IN_ALL.as_secs())));
    for attempt in 0..TRIES {
        if attempt > 0 {
            sleep(BETWEEN).await;
        }
        if Instant::now() >= end {
            break;
        }
        let reach = Ask { reach: task.others.keys().copied().collect() };
        failed = judge(&task, ask(task.address, &reach, PATIENCE).await);
        if failed.is_empty() {
            break;
        }
    }
    failed
}

fn judge(task: &Task, answer: Result<Answer, String>) -> Vec<Failed> {
    let not_from_there = |why: String| {
        let here = Failed { from: "here".to_owned(), to: task.node.clone(), address: task.address, why };
        let untried = task.others.iter().map(|(address, node)| {
            let why = "nothing could be asked of it".to_owned();
            Failed { from: task.node.clone(), to: node.clone(), address: *address, why }
        });
        [here].into_iter().chain(untried).collect()
    };
    let answer = match answer {
        Err(why) => return not_from_there(why),
        Ok(answer) if answer.node != task.node => return not_from_there(format!("{} answers", answer.node)),
        Ok(answer) => answer,
    };
    let said: BTreeMap<_, _> = answer.reached.into_iter().collect();
    let judged = task.others.iter().filter_map(|(address, node)| {
        let why = match said.get(address) {
            Some(Ok(there)) if there == node => return None,
            Some(Ok(there)) => format!("{there} answers"),
            Some(Err(why)) => why.clone(),
            None => "it was not tried".to_owned(),
        };
        Some(Failed { from: task.node.clone(), to: node.clone(), address: *address, why })
    });
    judged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(number: u8) -> Vec<TestPod> {
        let addresses = |n: u8| vec![IpAddr::from([10, 0, n, 3]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, n.into(), 3])];
        (0..number).map(|n| TestPod { node: format!("n{n:02}"), addresses: addresses(n) }).collect()
    }

    #[test]
    fn each_pod_is_reached_from_sixteen_others_and_never_from_itself() {
        let all = tasks(&pods(20));
        assert_eq!(all.len(), 40, "each at both addresses");
        let mut from = BTreeMap::<IpAddr, usize>::new();
        for task in &all {
            assert!(!task.others.contains_key(&task.address));
            assert!(task.others.keys().all(|other| other.is_ipv4() == task.address.is_ipv4()));
            task.others.keys().for_each(|other| *from.entry(*other).or_default() += 1);
        }
        assert!(from.len() == 40 && from.values().all(|times| *times == 16), "{from:?}");
        assert!(tasks(&pods(1)).iter().all(|task| task.others.is_empty()));
        assert!(tasks(&pods(3)).iter().all(|task| task.others.len() == 2));
    }

    #[test]
    fn silence_and_a_stranger_are_failures() {
        let task = &tasks(&pods(2))[0];
        let other = IpAddr::from([10, 0, 1, 3]);
        let answer = |node: &str, reached| Ok(Answer { node: node.to_owned(), reached });
        assert_eq!(judge(task, answer("n00", vec![(other, Ok("n01".into()))])), []);
        let why = |answer| {
            judge(task, answer).into_iter().map(|failed| (failed.from, failed.to, failed.why)).collect::<Vec<_>>()
        };
        let said = |from: &str, to: &str, why: &str| vec![(from.to_owned(), to.to_owned(), why.to_owned())];
        let untried = said("n00", "n01", "nothing could be asked of it");
        assert_eq!(why(Err("refused".into())), [said("here", "n00", "refused"), untried.clone()].concat());
        assert_eq!(why(answer("n07", vec![])), [said("here", "n00", "n07 answers"), untried].concat());
        assert_eq!(why(answer("n00", vec![(other, Ok("n00".into()))])), said("n00", "n01", "n00 answers"));
        assert_eq!(why(answer("n00", vec![(other, Err("timed out".into()))])), said("n00", "n01", "timed out"));
        assert_eq!(why(answer("n00", vec![])), said("n00", "n01", "it was not tried"));
    }
}
