//! `cadastre-operator run`, step by step: load → client → health → elect → observe → drive → give the Lease back.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use cadastre_engine::{Engine, EngineSettings, Phase};
use cadastre_runtime::{Catalog, ClientError, LoggingError, Readiness, ServeError, Settings, SettingsError, Shutdown};
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use crate::backoff::Backoff;
use crate::drive::{Driver, Pulse, QUEUE};
use crate::election::Election;
use crate::forecast::Forecast;
use crate::health::Health;
use crate::lease::{Elector, Timing};
use crate::metrics::Metrics;
use crate::node_view::Selector;
use crate::observe::{self, Patience};
use crate::outcome::with_causes;
use crate::perform::Performer;
use crate::requests::Requests;
use crate::settings::engine_settings;
use crate::standby::stand_by;
use crate::witness::{Doubt, Witness};

/// Prefix of metrics, and how the API server sees us.
pub const COMPONENT: &str = "cadastre-operator";

/// Where the Lease is if nothing says otherwise.
const FALLBACK_NAMESPACE: &str = "kube-system";

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
    pub leader_elect: bool,
    pub recover: bool,
    pub state_dir: Option<PathBuf>,
    pub listen: SocketAddr,
}

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Logging(#[from] LoggingError),
    #[error("signal handlers cannot be installed")]
    Signals(#[source] std::io::Error),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Listen(#[from] ServeError),
    #[error("not the leader any more: starting over, so that nothing is remembered that another one has changed")]
    LostLease,
    #[error("starting over, with everything read anew")]
    Unfounded(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no thread for the watchdog")]
    Watchdog(#[source] std::io::Error),
    #[error("a task died: {0}")]
    Died(String),
}

/// The Lease is from another time than what was read.
#[derive(Debug, thiserror::Error)]
#[error("the store was restored from a backup, as the version of the Lease shows")]
struct Doubted;

/// Runs until it is told to stop.
pub async fn run(options: Options) -> Result<(), RunError> {
    let settings = Settings::load(&options.config)?;
    cadastre_runtime::init_logging(&settings.log)?;
    settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let shutdown = Shutdown::on_signals().map_err(RunError::Signals)?;
    let process = Process::start(&options, &settings, shutdown).await?;
    if options.leader_elect { process.run_elected().await } else { process.lead().await }
}

/// What lives as long as the process.
struct Process {
    client: Client,
    requests: Requests,
    selector: Selector,
    settings: EngineSettings,
    health: Health,
    metrics: Metrics,
    shutdown: Shutdown,
    elector: Elector,
    witness: Witness,
}

impl Process {
    async fn start(options: &Options, settings: &Settings, shutdown: Shutdown) -> Result<Self, RunError> {
        let mut catalog = Catalog::new(crate::metrics::PREFIX);
        let metrics = Metrics::register(&mut catalog);
        let client = cadastre_runtime::counted_client(settings, COMPONENT, &metrics.api).await?;
        let readiness = Readiness::new();
        let health = Health::new(readiness.clone(), metrics.clone());
        cadastre_runtime::serve(options.listen, catalog.into_registry(), readiness, shutdown.clone()).await?;
        let elector = elector();
        let selector = Selector::from(&settings.operator.node_selector);
        tracing::info!(mode = %settings.mode.mode(), identity = elector.identity(), "operator starts");
        Ok(Self {
            requests: Requests::new(client.clone(), elector.identity().to_owned(), selector.clone()),
            client,
            selector,
            settings: engine_settings(settings, options.recover),
            health,
            metrics,
            shutdown,
            elector,
            witness: Witness::recall(options.state_dir.as_deref()),
        })
    }

    /// Stands by until it leads, and leads until the Lease is lost or the process is told to stop.
    async fn run_elected(self) -> Result<(), RunError> {
        let namespace = lease_namespace(&self.client);
        let shutdown = self.shutdown.clone();
        let mut election = Election::new(self.client.clone(), &namespace, self.elector.clone(), self.witness.clone());
        let until = tokio::select! {
            () = shutdown.requested() => None,
            () = stand_by(&self.requests, &self.settings, &self.health) => None,
            until = election.win() => Some(until),
        };
        let Some(until) = until else {
            election.release().await;
            return Ok(());
        };
        tracing::info!("leading");
        tokio::select! {
            ended = tokio::spawn(self.lead()) => {
                election.release().await;
                ended.unwrap_or_else(|died| Err(RunError::Died(died.to_string())))
            }
            () = election.keep(until) => Err(RunError::LostLease),
        }
    }

    /// Acts until told to stop. If the store was restored from a backup meanwhile, it starts over and hears every agent
    /// first.
    async fn lead(mut self) -> Result<(), RunError> {
        self.metrics.leads(true);
        // Whatever makes it start over, it does not do so all the time.
        let mut backoff = Backoff::default();
        let ended = loop {
            let doubt = self.witness.doubt();
            self.settings.recover |= doubt.is_some();
            let lead_on = async {
                tokio::select! {
                    ended = self.lead_on(doubt) => ended,
                    () = self.witness.doubts_anew(doubt) => Err(RunError::Unfounded(Box::new(Doubted))),
                }
            };
            match lead_on.await {
                Err(RunError::Unfounded(why)) => {
                    tracing::warn!(why = with_causes(&*why), "starting over, and hearing every agent first");
                    self.settings.recover = true;
                    tokio::select! {
                        () = self.shutdown.requested() => break Ok(()),
                        () = tokio::time::sleep(backoff.next()) => {}
                    }
                }
                ended => break ended,
            }
        };
        self.metrics.leads(false);
        ended
    }

    /// Reads the cluster and acts until told to stop, or until what was read holds no more. Every agent is heard first if
    /// there is a doubt, which is settled by that.
    async fn lead_on(&self, doubt: Option<Doubt>) -> Result<(), RunError> {
        self.health.phase(Phase::Starting);
        let patience = Patience::Endless(self.health.clone());
        let observed = tokio::select! {
            () = self.shutdown.requested() => return Ok(()),
            observed = observe::world(&self.client, self.selector.clone(), &patience) => observed,
        };
        let (world, observation) = observed.map_err(|why| RunError::Unfounded(why.into()))?;
        tracing::info!(
            nodes = world.nodes.len(),
            ipam_nodes = world.ipam_nodes.len(),
            pages = world.pages.len(),
            "read the cluster"
        );
        let (sender, events) = mpsc::channel(QUEUE);
        let mut watches = observation.follow(&sender, &self.health);
        let pulse = Pulse::default();
        pulse.watch().map_err(RunError::Watchdog)?;
        let driver = Driver {
            engine: Engine::new(self.settings.clone(), rand::random()),
            performer: Performer::new(self.requests.clone(), self.metrics.clone()),
            events,
            health: self.health.clone(),
            metrics: self.metrics.clone(),
            forecast: Forecast::default(),
            started: Instant::now(),
            pulse,
            witness: self.witness.clone(),
            doubt,
        };
        // A set, so that the task ends with us, however we end.
        let mut driving = JoinSet::new();
        driving.spawn(driver.run(world, self.shutdown.clone()));
        let died = |died: JoinError| RunError::Died(died.to_string());
        tokio::select! {
            Some(ended) = driving.join_next() => ended.map_err(died)?.map_err(|why| RunError::Unfounded(why.into())),
            Some(ended) = watches.join_next() => Err(RunError::Unfounded(ended.map_err(died)?.into())),
        }
    }
}

fn elector() -> Elector {
    let pod = std::env::var("POD_NAME").ok().filter(|pod| !pod.is_empty());
    let unique = uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
    Elector::new(pod.as_deref(), &unique, Timing::default())
}

/// `POD_NAMESPACE`, else the `ServiceAccount`'s, else the kubeconfig context's, which kube calls `default` if it names
/// none.
fn lease_namespace(client: &Client) -> String {
    let set = |variable| std::env::var(variable).ok().filter(|value| !value.is_empty());
    if let Some(namespace) = set("POD_NAMESPACE") {
        return namespace;
    }
    let of_client = client.default_namespace();
    let says_nothing = set("KUBECONFIG").is_some() && of_client == "default";
    if says_nothing { FALLBACK_NAMESPACE.to_owned() } else { of_client.to_owned() }
}
