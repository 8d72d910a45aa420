//! The cluster half: watches, writes and leader election around the engine.
//!
//! ```text
//! main ─▶ run ──▶ standby, election (lease)     who leads, and what shows before it leads
//!           ├───▶ observe (watch, node_view)    the cluster as events
//!           └───▶ drive ─▶ engine ─▶ perform (requests, outcome, publish)
//! health, metrics                               what people see of it
//! check                                         settings against what is recorded
//! ```
//!
//! Nothing here decides who gets which block: that is the engine's, which does no I/O.

mod backoff;
mod check;
mod drive;
mod election;
mod health;
mod lean;
mod lease;
mod metrics;
mod node_view;
mod observe;
mod outcome;
mod perform;
mod publish;
mod requests;
mod run;
mod settings;
mod standby;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgAction, Parser, Subcommand};

use crate::check::Verdict;
use crate::run::Options;

/// `EX_CONFIG` of sysexits.h: the cluster would refuse these settings.
const EX_CONFIG: u8 = 78;

/// One task runs the engine, others do I/O: more threads would only take memory.
const WORKERS: usize = 2;

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
        /// Where /metrics, /healthz and /readyz are served.
        #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:9963")]
        listen: SocketAddr,
    },
    /// Validate a settings file and print what it comes to. Exits with 1 if it is wrong.
    CheckConfig {
        /// Settings file: the content of the chart's `ConfigMap`.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Compare with what the cluster records. Exits with 78 if the settings would be refused.
        #[arg(long)]
        live: bool,
    },
    /// Print the custom resource definitions as YAML.
    Crds,
}

fn main() -> ExitCode {
    match start(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cadastre-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { config, leader_elect, recover, listen } => {
            block_on(run::run(Options { config, leader_elect, recover, listen }))??;
        }
        Command::CheckConfig { config, live } => match block_on(check::check(&config, live))?? {
            Verdict::Good(summary) => print!("{summary}"),
            Verdict::Refused(why) => {
                eprint!("{why}");
                return Ok(ExitCode::from(EX_CONFIG));
            }
        },
        Command::Crds => print!("{}", cadastre_runtime::crds_yaml()?),
    }
    Ok(ExitCode::SUCCESS)
}

fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    Ok(runtime.context("the async runtime cannot be started")?.block_on(work))
}
