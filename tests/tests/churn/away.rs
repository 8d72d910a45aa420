//! For how long a node had no agent. A plugin waits 3 s for one: failures are to be judged by whether it could have come.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::Result;
use cadastre_tests::Lab;
use tokio::net::UnixStream;
use tokio::time::{interval, timeout};

/// A plugin waits 3 s for an agent (cni/src/agent.rs); on a busy machine looks are late.
pub const TOO_LONG: Duration = Duration::from_millis(3_000 - 300);
/// Between two looks. An agent that lived for less was of no use.
const PACE: Duration = Duration::from_millis(50);

/// Does `work`, and says how long the longest time was for which nobody answered at a node's socket.
pub async fn longest<T>(lab: &Lab, work: impl Future<Output = Result<T>>) -> Result<Duration> {
    let over = Cell::new(false);
    let worked = async {
        let done = work.await;
        over.set(true);
        done
    };
    let watched = async {
        let mut pace = interval(PACE);
        let mut heard = lab.nodes.each_ref().map(|_| Instant::now());
        let mut longest = Duration::ZERO;
        while !over.get() {
            pace.tick().await;
            for (node, heard) in lab.nodes.iter().zip(&mut heard) {
                let socket = node.path("/run/cadastre/cadastre.sock")?;
                longest = longest.max(heard.elapsed());
                if matches!(timeout(PACE, UnixStream::connect(socket)).await, Ok(Ok(_))) {
                    *heard = Instant::now();
                }
            }
        }
        anyhow::Ok(longest)
    };
    let (done, longest) = tokio::join!(worked, watched);
    done.and(longest)
}
