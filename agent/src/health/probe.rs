//! Both ends of a probe: who is connected to says the name of its node in a line, and closes.
//!
//! TCP, since ICMP would need one more capability, and as what pods do. The name tells an address that moved to another node.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

/// For an answer. A SYN that was lost is sent again after 1 s.
const PATIENCE: Duration = Duration::from_secs(3);

/// Before the name.
const GREETING: &str = "cadastre-health ";

/// Longer than any name of a node, which has 253 characters at most.
const LONGEST: u64 = 300;

/// Callers at once: 16 nodes with two families each, and room for more.
const CALLERS: usize = 64;

/// After `accept` failed, mostly for want of files.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers for ever. Callers beyond the bound are sent away.
pub async fn answer(listener: TcpListener, node: &str) {
    let line: Arc<str> = format!("{GREETING}{node}\n").into();
    let callers = Arc::new(Semaphore::new(CALLERS));
    loop {
        match (listener.accept().await, Arc::clone(&callers).try_acquire_owned()) {
            (Ok((mut stream, _)), Ok(permit)) => {
                let line = Arc::clone(&line);
                tokio::spawn(async move {
                    // Who does not listen learns nothing.
                    drop(timeout(PATIENCE, stream.write_all(line.as_bytes())).await);
                    drop(permit);
                });
            }
            (Ok(_), Err(_)) => {}
            (Err(error), _) => {
                tracing::warn!(%error, "a probe could not be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

/// How long the node took to answer, or what went wrong.
pub async fn probe(to: SocketAddr, node: &str) -> Result<Duration, String> {
    let begun = Instant::now();
    let said = timeout(PATIENCE, ask(to)).await;
    let said = said.map_err(|_| format!("no answer in {} s", PATIENCE.as_secs()))?;
    let said = said.map_err(|error| error.to_string())?;
    match said.strip_prefix(GREETING.as_bytes()).and_then(|name| name.strip_suffix(b"\n")) {
        Some(name) if name == node.as_bytes() => Ok(begun.elapsed()),
        Some(name) => Err(format!("node {} answers there", String::from_utf8_lossy(name))),
        None => Err("somebody else answers there".to_owned()),
    }
}

async fn ask(to: SocketAddr) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    TcpStream::connect(to).await?.take(LONGEST).read_to_end(&mut said).await?;
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_is_known_by_its_name() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let answering = tokio::spawn(async move { answer(listener, "n1").await });
        assert!(probe(there, "n1").await.unwrap() < PATIENCE);
        assert_eq!(probe(there, "n2").await.unwrap_err(), "node n1 answers there");
        answering.abort();
        drop(answering.await);
        let refused = probe(there, "n1").await.unwrap_err();
        assert!(refused.starts_with("Connection refused"), "{refused}");
    }

    #[tokio::test]
    async fn others_are_not_taken_for_a_node() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        });
        assert_eq!(probe(there, "n1").await.unwrap_err(), "somebody else answers there");
    }

    #[tokio::test]
    async fn silence_is_an_answer_too() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        assert_eq!(probe(there, "n1").await.unwrap_err(), "no answer in 3 s");
    }
}
