//! The node half of Cadastre: gives addresses to pods, and says who has which.

use std::path::PathBuf;
use std::process::ExitCode;

use cadastre_agent::audit::gather::Sources;
use cadastre_agent::command::{audit, explain, status};
use cadastre_agent::options::Options;
use cadastre_agent::run::run;
use cadastre_messages::DEFAULT_SOCKET;
use cadastre_runtime::AuditVerdict;
use clap::{Parser, Subcommand, ValueEnum};

/// Gives addresses to the pods of this node.
#[derive(Parser)]
#[command(name = "cadastre-agent", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the CNI plugin on this node until told to stop.
    Run(Box<Options>),
    /// Say how the agent of this node is, and who has which address.
    Status {
        /// List every allocated address with its owner.
        #[arg(long)]
        all_addresses: bool,
        /// Format of the output.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
        /// Socket of the agent.
        #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
        socket: PathBuf,
    },
    /// Compare what the agent holds with the network namespaces and with the API server's Pods. Exits with 1 if something is
    /// found, with 2 if not everything could be read.
    Audit {
        /// Mend this one finding, named as the audit prints it.
        #[arg(long, value_name = "ID", conflicts_with = "output")]
        fix: Option<String>,
        /// Format of the output.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
        /// Settings file, for how the API server is reached.
        #[arg(long, value_name = "FILE", default_value = "/etc/cadastre/config.yaml")]
        config: PathBuf,
        /// Socket of the agent.
        #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
        socket: PathBuf,
        /// Folder of the network namespaces.
        #[arg(long, value_name = "DIR", default_value = "/run/netns")]
        netns_dir: PathBuf,
    },
    /// Say who has an address, since when, where it came from and what would free it; or why a pod has none.
    Explain {
        /// An address, `namespace/pod`, or a pod's name.
        #[arg(value_name = "POD|ADDRESS")]
        what: String,
        /// Format of the output.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
        /// Socket of the agent.
        #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
        socket: PathBuf,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    // Of an audit 1 says that something was found.
    let failed = match command {
        Command::Audit { fix: None, .. } => AuditVerdict::Partial.into(),
        _ => ExitCode::FAILURE,
    };
    start(command).unwrap_or_else(|error| {
        eprintln!("cadastre-agent: {}", cadastre_runtime::with_causes(error.as_ref()));
        failed
    })
}

fn start(command: Command) -> anyhow::Result<ExitCode> {
    let well = match command {
        Command::Run(options) => block_on(*options)?,
        Command::Status { all_addresses, output, socket } => status(&socket, all_addresses, output == Output::Json)?,
        Command::Audit { fix, output, config, socket, netns_dir } => {
            let sources = Sources { socket, namespaces: netns_dir, config };
            match fix {
                Some(id) => audit::fix(&sources, &id)?,
                None => return Ok(audit::run(&sources, output == Output::Json)?.into()),
            }
        }
        Command::Explain { what, output, socket } => explain(&socket, &what, output == Output::Json)?,
    };
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn block_on(options: Options) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(options)).map(|()| true)
}
