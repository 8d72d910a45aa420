//! The pod of the test on a node: answers with the node's name, and connects to other such pods when asked.
//!
//! It lives for the length of a test. Whoever reaches it can learn which of 64 addresses answer at one port: no more.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cadastre_runtime::{Shutdown, bind, with_causes};
use futures::stream::{self, StreamExt as _};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Answer, Ask, CONNECT, LINE, PORT};

/// Connections that are served at once; more wait.
const AT_ONCE: usize = 32;
/// For a whole connection: 64 addresses, `TOGETHER` at a time.
const PATIENCE: Duration = Duration::from_secs(30);
const MOST: usize = 64;
const TOGETHER: usize = 16;

/// Serves until it is told to stop.
pub async fn answer(node: String) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals()?;
    let listener = bind((Ipv6Addr::UNSPECIFIED, PORT).into()).await?;
    tokio::select! {
        () = serve(listener, node.into()) => Ok(()),
        () = shutdown.requested() => Ok(()),
    }
}

async fn serve(listener: TcpListener, node: Arc<str>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let node = Arc::clone(&node);
                tokio::spawn(async move {
                    // Whoever asked sees that no answer came.
                    let _ = timeout(PATIENCE, reply(stream, &node)).await;
                    drop(place);
                });
            }
            Err(error) => eprintln!("a connection could not be accepted: {}", with_causes(&error)),
        }
    }
}

async fn reply(mut stream: TcpStream, node: &str) -> io::Result<()> {
    let (from, mut to) = stream.split();
    let mut line = Vec::new();
    BufReader::new(from.take(LINE)).read_until(b'\n', &mut line).await?;
    let Ask { reach } = serde_json::from_slice(&line)?;
    let reached = stream::iter(reach.into_iter().take(MOST))
        .map(async |address| (address, ask(address, &Ask::default(), CONNECT).await.map(|answer| answer.node)))
        .buffer_unordered(TOGETHER)
        .collect()
        .await;
    let mut line = serde_json::to_vec(&Answer { node: node.to_owned(), reached })?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// Asks the pod at an address.
pub(super) async fn ask(address: IpAddr, ask: &Ask, patience: Duration) -> Result<Answer, String> {
    let asked = async {
        let mut stream = TcpStream::connect(SocketAddr::from((address, PORT))).await?;
        let mut line = serde_json::to_vec(ask)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut line = Vec::new();
        BufReader::new(stream.take(LINE)).read_until(b'\n', &mut line).await?;
        Ok::<Answer, io::Error>(serde_json::from_slice(&line)?)
    };
    match timeout(patience, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(with_causes(&error)),
        Err(_) => Err(format!("no answer in {} s", patience.as_secs())),
    }
}
