//! The cluster half: watches, writes and leader election around the engine.
//!
//! ```text
//! main ─▶ run ──▶ standby, election (lease)     who leads, and what shows before it leads
//!           ├───▶ witness                       whether the store was restored from a backup
//!           ├───▶ observe (watch, node_view)    the cluster as events
//!           └───▶ drive ─▶ engine ─▶ perform (requests, outcome, publish)
//! health, metrics, forecast                     what people see of it
//! check                                         settings against what is recorded
//! plan                                          what would be done now: the engine over a store in memory
//! audit                                         an independent look at who holds which block
//! trial                                         what `helm test` runs
//! onlooker                                      what the commands begin with that only look
//! ```
//!
//! Nothing here decides who gets which block: that is the engine's, which does no I/O.

mod audit;
mod backoff;
mod check;
mod drive;
mod election;
mod forecast;
mod health;
mod lean;
mod lease;
mod metrics;
mod node_view;
mod observe;
mod onlooker;
mod outcome;
mod pace;
mod perform;
mod plan;
mod publish;
mod requests;
mod run;
mod service_cidrs;
mod settings;
mod standby;
mod trial;
mod watch;
mod witness;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use cadastre_runtime::{AuditVerdict, DaemonSetName};
use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use crate::check::Verdict;
use crate::run::Options;

/// `EX_CONFIG` of sysexits.h: the cluster would refuse these settings.
const EX_CONFIG: u8 = 78;

/// Where the chart mounts the settings in the operator's pod.
const MOUNTED: &str = "/etc/cadastre/config.yaml";

/// Cadastre's operator: assigns blocks of addresses to nodes.
#[derive(Debug, Parser)]
#[command(name = "cadastre-operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator.
    Run {
        /// Settings file: the content of the chart's `ConfigMap`.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Act only while holding the Lease cadastre-operator.
        #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
        leader_elect: bool,
        /// Assign nothing until the agents of all Ready nodes have said what they hold (2 minutes at most). For use after the cluster's data was lost or restored.
        #[arg(long)]
        recover: bool,
        /// Where to keep how far the cluster's store was. What is kept while the operator starts anew lets it notice that the store was restored from a backup meanwhile.
        #[arg(long, value_name = "FOLDER")]
        state_dir: Option<PathBuf>,
        /// Where /metrics, /healthz and /readyz are served.
        #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:9963", value_parser = cadastre_runtime::listen_addr)]
        listen: SocketAddr,
    },
    /// Validate a settings file and print what it comes to. Exits with 1 if it is wrong.
    CheckConfig {
        /// A values.yaml, or the content of the chart's `ConfigMap`.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Compare with what the cluster records. Exits with 78 if the settings would be refused.
        #[arg(long)]
        live: bool,
    },
    /// Print what the operator would do now, and do nothing. Exits with 78 if something of the settings would be refused.
    Plan {
        /// A values.yaml, or the content of the chart's `ConfigMap`.
        #[arg(long, value_name = "FILE", default_value = MOUNTED)]
        config: PathBuf,
        /// For people, or for programs.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Compare ledger, `IPAMNodes`, Nodes, the words of agents, and Pods with each other. Exits with 1 if something is found, with 2 if not everything could be read.
    Audit {
        /// Mend this one finding, named as the audit prints it.
        #[arg(long, value_name = "ID", conflicts_with = "output")]
        fix: Option<String>,
        /// A values.yaml, or the content of the chart's `ConfigMap`.
        #[arg(long, value_name = "FILE", default_value = MOUNTED)]
        config: PathBuf,
        /// For people, or for programs.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// What `helm test` runs: wait for a pod on each node, let them connect to each other, and audit. Exits with 1 if something fails.
    Test {
        /// The pods, which run `test-pod`.
        #[arg(long, value_name = "NAMESPACE/NAME")]
        daemon_set: DaemonSetName,
        /// A values.yaml, or the content of the chart's `ConfigMap`.
        #[arg(long, value_name = "FILE", default_value = MOUNTED)]
        config: PathBuf,
    },
    /// What the pods of `helm test` run: answer each other.
    TestPod {
        #[arg(long, value_name = "NAME")]
        node_name: String,
    },
    /// Print the custom resource definitions as YAML.
    Crds,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    // Of an audit 1 says that something was found.
    let failed = match command {
        Command::Audit { fix: None, .. } => AuditVerdict::Partial.into(),
        _ => ExitCode::FAILURE,
    };
    start(command).unwrap_or_else(|error| {
        eprintln!("cadastre-operator: {}", cadastre_runtime::with_causes(error.as_ref()));
        failed
    })
}

fn start(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { config, leader_elect, recover, state_dir, listen } => {
            block_on(run::run(Options { config, leader_elect, recover, state_dir, listen }))??;
        }
        Command::CheckConfig { config, live } => match block_on(check::check(&config, live))?? {
            Verdict::Good(summary) => print!("{summary}"),
            Verdict::Refused(why) => {
                eprint!("{why}");
                return Ok(ExitCode::from(EX_CONFIG));
            }
        },
        Command::Plan { config, output } => {
            let outlook = block_on(plan::plan(&config))??;
            match output {
                Output::Text => print!("{outlook}"),
                Output::Json => println!("{}", serde_json::to_string_pretty(&outlook)?),
            }
            if outlook.is_refused() {
                return Ok(ExitCode::from(EX_CONFIG));
            }
        }
        Command::Audit { fix, config, output } => {
            let outcome = block_on(audit::audit(&config, fix.as_deref()))??;
            match (&fix, output) {
                (Some(id), _) => {
                    println!("{id}: done");
                    return Ok(ExitCode::SUCCESS);
                }
                (None, Output::Text) => print!("{outcome}"),
                (None, Output::Json) => println!("{}", serde_json::to_string_pretty(&outcome)?),
            }
            if let Some(trouble) = &outcome.trouble {
                eprintln!("cadastre-operator: not everything was compared: {trouble}");
            }
            return Ok(outcome.verdict().into());
        }
        Command::Test { daemon_set, config } => {
            let trial = block_on(trial::trial(&config, &daemon_set))??;
            print!("{trial}");
            if !trial.is_good() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::TestPod { node_name } => block_on(trial::answer::answer(node_name))??,
        Command::Crds => print!("{}", cadastre_runtime::crds_yaml()?),
    }
    Ok(ExitCode::SUCCESS)
}

/// On one thread: with a second one, handing each request's tasks to and fro took a third of the operator's CPU.
fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("the async runtime cannot be started")?.block_on(work))
}
