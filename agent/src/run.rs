//! `cadastre-agent run`: puts the parts together.
//!
//! ```text
//! settings ─▶ lock ─▶ journal ─▶ socket ─▶ thread "serve": calls
//!                                   └────▶ this thread:    API server, metrics, health
//! ```
//! The API server is not needed to get this far, and not to serve what the journal knows.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use anyhow::Context;
use cadastre_runtime::{Catalog, Readiness, Server, Settings, Shutdown, Trigger, init_logging};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};

use crate::boot_time::boot_id;
use crate::health::{self, keep};
use crate::kube::{Annotations, Links, Pods, drive};
use crate::metrics::{Metrics, PREFIX};
use crate::node::{Asking, Host, Installer, Peers, farewell, tend};
use crate::options::Options;
use crate::outlook::{Cluster, Outlook};
use crate::report::Identity;
use crate::serve::{Front, Message, Owner, Socket, State, folder_of, serve};
use crate::tombstones::Tombstones;

/// Readiness checks.
mod checks {
    pub const CNI: &str = "cni";
    pub const JOURNAL: &str = "journal";
    pub const MODE: &str = "mode";
    pub const SOCKET: &str = "socket";
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let settings = Settings::load(&options.config)?;
    init_logging(&settings.log)?;
    settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let shutdown = Shutdown::on_signals().context("cannot handle signals")?;
    raise_file_limit();

    let me = options.me();
    let _lock = options.lock(&me)?;
    let boot = boot_id().context("cannot read the boot ID")?;
    let state = State::open(options.opener(&settings, boot.clone()));
    let (metrics, readiness, server) = serve_metrics(options.listen, &shutdown).await?;

    let (outlook_to, outlook) = watch::channel(Outlook::default());
    let (cluster_to, cluster) = watch::channel(Cluster::default());
    let (peers_to, peers) = watch::channel(None);
    let (to_owner, queue) = mpsc::unbounded_channel();
    let links = Links {
        identity: Identity { node: options.node_name.clone(), configured: settings.mode.mode() },
        owner: to_owner,
        outlook,
        cluster: Arc::new(cluster_to),
        metrics: metrics.clone(),
        peers: (settings.cni.routes || settings.health.is_some()).then(|| Arc::new(peers_to)),
        reconcile_every: options.reconcile_every,
    };
    let socket = Socket::listen(&options.socket, &me)?;
    let tombstones = Tombstones::open(folder_of(&options.socket), &boot).context("cannot open the tombstones")?;
    let owner = Owner::new(links.identity.clone(), state, tombstones, metrics.clone(), outlook_to, cluster);
    let pods = Pods::default();
    let (annotations, questions) = Annotations::new(pods.clone());
    let front = Front { owner: links.owner.clone(), annotations, metrics };
    let (stop_serving, serve_until) = Shutdown::manual();
    let serving = Serving { socket, owner, queue, front, shutdown: serve_until, ended: shutdown.trigger().clone() };
    let thread = serving.start()?;
    readiness.pass(checks::SOCKET);

    let (host, health) = (options.host(&settings), options.health(&settings));
    let rest = Rest { host, health: health.clone(), links: links.clone(), peers };
    // Not dropped with the rest: its watch of Pods may still have to tell the farewell of this agent's own.
    let mut dealings = pin!(drive(&settings, links.clone(), pods.clone(), questions));
    tokio::select! {
        () = &mut dealings => {}
        () = rest.run(&readiness) => {}
        () = shutdown.requested() => {}
    }
    if let (true, Some(daemon_set)) = (shutdown.is_requested(), &options.daemon_set) {
        let installer = Installer::new(&settings.cni, options.plugin, &options.socket);
        let asking = Asking { settings: &settings, daemon_set, pods: &pods, pod_uid: options.pod_uid.as_deref() };
        farewell(&asking, installer.as_ref(), &health, &links.owner).await;
    }
    stop_serving.fire(); // Not before: the health endpoint's DEL goes through the socket.
    shutdown.trigger().fire();
    drop(server.task.await); // It ends with the shutdown, and says so itself if it ended before.
    thread.join().map_err(|_| anyhow::anyhow!("the thread that serves the socket has failed"))?
}

/// Ready once the socket listens, among others.
async fn serve_metrics(listen: SocketAddr, shutdown: &Shutdown) -> anyhow::Result<(Metrics, Readiness, Server)> {
    let mut catalog = Catalog::new(PREFIX);
    let metrics = Metrics::new(&mut catalog);
    let readiness = Readiness::new();
    readiness.fail(checks::SOCKET, "not listening yet");
    let server = cadastre_runtime::serve(listen, catalog.into_registry(), readiness.clone(), shutdown.clone()).await?;
    Ok((metrics, readiness, server))
}

/// What this thread does beside the dealings with the API server.
struct Rest {
    host: Host,
    health: health::Host,
    links: Links,
    peers: watch::Receiver<Peers>,
}

impl Rest {
    /// Runs for ever, unless something of it fails.
    async fn run(self, readiness: &Readiness) {
        let Self { host, health, links, peers } = self;
        let Links { identity, owner, outlook, cluster, metrics, .. } = links;
        tokio::select! {
            () = tend(host, outlook.clone(), peers.clone(), Arc::clone(&cluster), metrics.clone()) => {}
            () = keep(health, outlook.clone(), peers, Arc::clone(&cluster), owner, metrics) => {}
            () = watch_readiness(identity, outlook, cluster.subscribe(), readiness) => {}
        }
    }
}

/// What the serving thread is given.
struct Serving {
    socket: Socket,
    owner: Owner,
    queue: mpsc::UnboundedReceiver<Message>,
    front: Front,
    shutdown: Shutdown,
    /// Fired when nothing is served any more.
    ended: Trigger,
}

impl Serving {
    fn start(self) -> anyhow::Result<std::thread::JoinHandle<anyhow::Result<()>>> {
        let run = move || {
            let Self { socket, owner, queue, front, shutdown, ended } = self;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let served = runtime.block_on(serve(socket, owner, queue, front, shutdown));
            ended.fire(); // Without the socket the rest is of no use.
            Ok(served?)
        };
        Ok(std::thread::Builder::new().name("serve".to_owned()).spawn(run)?)
    }
}

/// Ready once the recorded mode is known to be the configured one, so that a rollout with another stops at the first node.
async fn watch_readiness(
    identity: Identity,
    mut outlook: watch::Receiver<Outlook>,
    mut cluster: watch::Receiver<Cluster>,
    readiness: &Readiness,
) {
    loop {
        {
            let outlook = outlook.borrow_and_update();
            readiness.set(checks::JOURNAL, outlook.journal.trouble.clone().map_or(Ok(()), Err));
            readiness.set(
                checks::MODE,
                match (outlook.mode(), outlook.mode_differs(identity.configured)) {
                    (None, _) => Err("the recorded mode is not known yet".to_owned()),
                    (Some(_), Some(differs)) => Err(differs),
                    (Some(_), None) => Ok(()),
                },
            );
        }
        let setup = cluster.borrow_and_update().setup.clone();
        readiness.set(checks::CNI, setup.not_installed().map_or(Ok(()), |trouble| Err(trouble.to_owned())));
        let changed = tokio::select! {
            changed = outlook.changed() => changed.is_ok(),
            changed = cluster.wait_for(|cluster| cluster.setup != setup) => changed.is_ok(),
        };
        if !changed {
            return;
        }
    }
}

/// Each waiting ADD is an open file; the default limit of 1024 is for programs that use `select`.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, ?limit, "the limit of open files stays");
    }
}
