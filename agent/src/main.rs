//! The node half of Cadastre: gives addresses to pods, and says who has which.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use cadastre_agent::audit::gather::Sources;
use cadastre_agent::command::{audit, explain, status};
use cadastre_agent::run::{Options, run};
use cadastre_messages::DEFAULT_SOCKET;
use cadastre_runtime::DaemonSetName;
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
    Run {
        /// Settings file: the content of the chart's `ConfigMap`.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Name of this node's Node object.
        #[arg(long, value_name = "NAME", env = "NODE_NAME")]
        node_name: String,
        /// Folder of the journal. It needs to outlive the agent, and not a reboot.
        #[arg(long, value_name = "DIR", default_value = "/run/cadastre")]
        state_dir: PathBuf,
        /// Socket that the plugin calls.
        #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
        socket: PathBuf,
        /// Where metrics and health are served; port 0 lets the kernel choose.
        #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:9962", value_parser = cadastre_runtime::listen_addr)]
        listen: SocketAddr,
        /// libcni's folder: its cache of results says who has which address if the journal cannot.
        #[arg(long, value_name = "DIR", default_value = "/var/lib/cni")]
        cni_cache: PathBuf,
        /// Folder of the network namespaces, looked into likewise.
        #[arg(long, value_name = "DIR", default_value = "/run/netns")]
        netns_dir: PathBuf,
        /// The plugin that is installed on the node.
        #[arg(long, value_name = "FILE", default_value = "/cadastre")]
        plugin: PathBuf,
        /// `/proc/sys/net` of the node, where it can be written.
        #[arg(long, value_name = "DIR", default_value = "/proc/sys/net")]
        sysctl_dir: PathBuf,
        /// The `DaemonSet` that this agent is of: if it is gone when the agent stops, what was installed is taken back.
        #[arg(long, value_name = "NAMESPACE/NAME")]
        daemon_set: Option<DaemonSetName>,
        /// Seconds between two searches for addresses of pods that are gone.
        #[arg(long, default_value_t = 30.0, hide = true, env = "CADASTRE_RECONCILE_SECONDS")]
        reconcile_seconds: f64,
        /// Seconds between two rounds of probes of other nodes.
        #[arg(long, default_value_t = 30.0, hide = true, env = "CADASTRE_HEALTH_SECONDS")]
        health_seconds: f64,
    },
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
    /// found.
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
    let done = match Arguments::parse().command {
        Command::Run {
            config,
            node_name,
            state_dir,
            socket,
            listen,
            cni_cache,
            netns_dir,
            plugin,
            sysctl_dir,
            daemon_set,
            reconcile_seconds,
            health_seconds,
        } => {
            let every = |seconds: f64, flag| Duration::try_from_secs_f64(seconds.max(0.1)).context(flag);
            let reconcile = every(reconcile_seconds, "--reconcile-seconds");
            let both = reconcile.and_then(|reconcile| Ok((reconcile, every(health_seconds, "--health-seconds")?)));
            both.and_then(|(reconcile_every, health_every)| {
                block_on(Options {
                    config,
                    node_name,
                    state_dir,
                    socket,
                    listen,
                    cni_cache,
                    netns_dir,
                    plugin,
                    sysctl_dir,
                    daemon_set,
                    reconcile_every,
                    health_every,
                })
            })
        }
        Command::Status { all_addresses, output, socket } => status(&socket, all_addresses, output == Output::Json),
        Command::Audit { fix, output, config, socket, netns_dir } => {
            let sources = Sources { socket, namespaces: netns_dir, config };
            match fix {
                Some(id) => audit::fix(&sources, &id),
                None => audit::run(&sources, output == Output::Json),
            }
        }
        Command::Explain { what, output, socket } => explain(&socket, &what, output == Output::Json),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cadastre-agent: {}", cadastre_runtime::with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn block_on(options: Options) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(options)).map(|()| true)
}
