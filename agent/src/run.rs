//! `cadastre-agent run`: puts the parts together.
//!
//! ```text
//! settings ─▶ lock ─▶ journal ─▶ socket ─▶ thread "serve": calls
//!                                   └────▶ this thread:    API server, metrics, health
//! ```
//! The API server is not needed to get this far, and not to serve what the journal knows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use cadastre_runtime::{Catalog, DaemonSetName, Readiness, Settings, Shutdown, Trigger, init_logging};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};

use crate::boot_time::boot_id;
use crate::desk::Opener;
use crate::health::{self, keep};
use crate::kube::{Annotations, Links, Pods, drive};
use crate::lock::Lock;
use crate::metrics::{Metrics, PREFIX};
use crate::node::{CONFLIST, Host, Installer, farewell, tend};
use crate::outlook::{Cluster, Outlook};
use crate::pools::Rules;
use crate::report::Identity;
use crate::serve::{Front, Message, Owner, Socket, State, folder_of, serve};
use crate::survey::Places;
use crate::tombstones::Tombstones;

/// Readiness checks.
mod checks {
    pub const CNI: &str = "cni";
    pub const JOURNAL: &str = "journal";
    pub const MODE: &str = "mode";
    pub const SOCKET: &str = "socket";
}

/// The command line.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
    pub node_name: String,
    pub state_dir: PathBuf,
    pub socket: PathBuf,
    pub listen: SocketAddr,
    /// libcni's folder, and that of the network namespaces: looked at if the journal is missing or damaged.
    pub cni_cache: PathBuf,
    pub netns_dir: PathBuf,
    /// The plugin to install, and `/proc/sys/net`, where it can be written.
    pub plugin: PathBuf,
    pub sysctl_dir: PathBuf,
    /// Whose pod this is, if it is one's.
    pub daemon_set: Option<DaemonSetName>,
    pub reconcile_every: Duration,
    /// Between two rounds of probes.
    pub health_every: Duration,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let settings = Settings::load(&options.config)?;
    init_logging(&settings.log)?;
    settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let shutdown = Shutdown::on_signals().context("cannot handle signals")?;
    raise_file_limit();

    let Options { config: _, node_name, state_dir, socket, listen, cni_cache, netns_dir, .. } = options;
    let Options { plugin, sysctl_dir, daemon_set, reconcile_every, health_every, .. } = options;
    let me = format!("the agent of node {node_name}, process {}", std::process::id());
    std::fs::create_dir_all(&state_dir).with_context(|| format!("cannot make {}", state_dir.display()))?;
    let _lock = Lock::take(&state_dir.join("agent.lock"), &me)?;
    let identity = Identity { node: node_name.clone(), configured: settings.mode.mode() };
    let boot = boot_id().context("cannot read the boot ID")?;
    let host = Host {
        name: node_name.clone(),
        settings: settings.cni.clone(),
        plugin: plugin.clone(),
        socket: socket.clone(),
        sysctls: sysctl_dir,
    };
    let health = health::Host {
        node: node_name.clone(),
        settings: settings.health,
        bin: settings.cni.bin_path.clone().unwrap_or_default(),
        conflist: settings.cni.conflist.as_ref().map(|conflist| conflist.conf_path.join(CONFLIST)).unwrap_or_default(),
        every: health_every,
    };
    let rules =
        Rules { node: node_name, address_cooling: settings.agent.address_cooling, add_wait: settings.agent.add_wait };
    let places = Places { cache: cni_cache, namespaces: netns_dir, socket: socket.clone() };
    let state = State::open(Opener { folder: state_dir, boot: boot.clone(), rules, places });

    let mut catalog = Catalog::new(PREFIX);
    let metrics = Metrics::new(&mut catalog);
    let readiness = Readiness::new();
    readiness.fail(checks::SOCKET, "not listening yet");
    let server = cadastre_runtime::serve(listen, catalog.into_registry(), readiness.clone(), shutdown.clone()).await?;

    let (outlook_to, outlook) = watch::channel(Outlook::default());
    let (cluster_to, cluster) = watch::channel(Cluster::default());
    let (to_owner, queue) = mpsc::unbounded_channel();
    let installer = Installer::new(&settings.cni, plugin, &socket);
    let socket = Socket::listen(&socket, &me).map(|listening| (listening, folder_of(&socket).to_owned()));
    let (socket, folder) = socket?;
    let tombstones = Tombstones::open(&folder, &boot).context("cannot open the tombstones")?;
    let owner = Owner::new(identity.clone(), state, tombstones, metrics.clone(), outlook_to, cluster);
    let pods = Pods::default();
    let (annotations, questions) = Annotations::new(pods.clone());
    let front = Front { owner: to_owner.clone(), annotations, metrics: metrics.clone() };
    let (stop_serving, serve_until) = Shutdown::manual();
    let serving = Serving { socket, owner, queue, front, shutdown: serve_until, ended: shutdown.trigger().clone() };
    let thread = serving.start()?;
    readiness.pass(checks::SOCKET);

    let (peers_to, peers) = watch::channel(None);
    let cluster_to = Arc::new(cluster_to);
    let links = Links {
        identity: identity.clone(),
        owner: to_owner.clone(),
        outlook: outlook.clone(),
        cluster: Arc::clone(&cluster_to),
        metrics: metrics.clone(),
        peers: (settings.cni.routes || settings.health.is_some()).then(|| Arc::new(peers_to)),
        reconcile_every,
    };
    tokio::select! {
        () = drive(&settings, links, pods, questions) => {}
        () = tend(host, outlook.clone(), peers.clone(), Arc::clone(&cluster_to), metrics.clone()) => {}
        () = keep(health.clone(), outlook.clone(), peers, Arc::clone(&cluster_to), to_owner.clone(), metrics) => {}
        () = watch_readiness(identity, outlook.clone(), cluster_to.subscribe(), &readiness) => {}
        () = shutdown.requested() => {}
    }
    if let (true, Some(daemon_set)) = (shutdown.is_requested(), daemon_set) {
        farewell(&settings, &daemon_set, installer.as_ref(), &health, &to_owner).await;
    }
    stop_serving.fire(); // Not before: the health endpoint's DEL goes through the socket.
    shutdown.trigger().fire();
    drop(server.task.await); // It ends with the shutdown, and says so itself if it ended before.
    thread.join().map_err(|_| anyhow::anyhow!("the thread that serves the socket has failed"))?
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
