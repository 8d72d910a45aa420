//! What to run, with arguments, environment and namespace; either as a command that ends or as a process that stays.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::AsyncWriteExt as _;

use crate::{NetNs, Proc, paths};

/// No command of a test takes longer; one that hangs must not hang the run.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(2);

/// Never inherited: a test must not reach a cluster, or read a setting, of the person who runs it.
const HIDDEN: [&str; 9] = [
    "KUBECONFIG",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
];

/// A program with all that it is started with. It can be started many times.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    netns: Option<PathBuf>,
    private_var_lib: Option<PathBuf>,
    agent_at_default: Option<PathBuf>,
    stdin: Vec<u8>,
}

impl Program {
    /// Any program, by path or by name on `PATH`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            netns: None,
            private_var_lib: None,
            agent_at_default: None,
            stdin: Vec::new(),
        }
    }

    /// A release binary of ours: `cadastre-operator`, `cadastre-agent`, `cadastre`. An agent sets nothing up, unless it is told
    /// to: the node would be the machine that the tests run on.
    pub fn ours(name: &str) -> Result<Self> {
        let program = Self::new(paths::binary(name)?);
        Ok(if name == "cadastre-agent" { program.env("CADASTRE__CNI__INSTALL", "false") } else { program })
    }

    /// A tool that `make tools` built: `kubectl`, `helm`, `etcdctl`, `bridge`, …
    pub fn tool(name: &str) -> Result<Self> {
        Ok(Self::new(paths::tool(name)?))
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs it in a network namespace.
    #[must_use]
    pub fn netns(mut self, netns: &NetNs) -> Self {
        self.netns = Some(netns.path());
        self
    }

    /// Shows the program `folder` as its `/var/lib`: libcni keeps its cache there, and nothing lets one say where.
    #[must_use]
    pub fn private_var_lib(mut self, folder: &Path) -> Self {
        self.private_var_lib = Some(folder.to_owned());
        self
    }

    /// Shows the program `folder`, an agent's, as `/run/cadastre`, where configurations that name no socket look for it.
    #[must_use]
    pub fn agent_at_default(mut self, folder: &Path) -> Self {
        self.agent_at_default = Some(folder.to_owned());
        self
    }

    /// This program with its environment and input, started by `wrapper`, whose arguments end where its own begin.
    #[must_use]
    pub fn under(self, wrapper: Self) -> Self {
        let program = wrapper.arg("setpriv").args(["--pdeathsig", "KILL", "--"]).arg(&self.path).args(&self.args);
        Self { path: program.path, args: program.args, ..self }
    }

    /// What [`Program::run`] writes to its standard input.
    #[must_use]
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.stdin = input.into();
        self
    }

    /// What it is given on its standard input.
    pub fn input(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.stdin)
    }

    /// Starts it as a process that stays, with its output in `<folder>/<name>.log`.
    pub fn start(self, folder: &Path, name: &str) -> Result<Proc> {
        Proc::start(self, folder, name)
    }

    /// Runs it to its end.
    pub async fn run(&self) -> Result<Output> {
        let mut command = tokio::process::Command::from(self.command());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {self}"))?;
        let mut input = child.stdin.take().context("no standard input")?;
        let feed = async {
            // A program that does not read its input closes it; that is its right.
            let _ = input.write_all(&self.stdin).await;
            drop(input);
        };
        let ended = async { tokio::join!(feed, child.wait_with_output()).1 };
        match tokio::time::timeout(COMMAND_TIMEOUT, ended).await {
            Ok(output) => Ok(Output::new(self.to_string(), output.with_context(|| format!("running {self}"))?)),
            Err(_) => bail!("{self} did not end in {COMMAND_TIMEOUT:?}"),
        }
    }

    /// The command line: wrappers that become the program (each ends in exec, so its pid is the program's).
    pub(crate) fn command(&self) -> Command {
        let mut words: Vec<OsString> = ["setpriv", "--pdeathsig", "KILL", "--"].map(OsString::from).into();
        if let Some(netns) = &self.netns {
            let mut flag = OsString::from("--net=");
            flag.push(netns);
            words.extend(["nsenter".into(), flag, "--".into()]);
        }
        // /mnt keeps the namespaces while /run becomes another.
        let run = r#"mount --rbind /run/netns /mnt && mount -t tmpfs none /run && mkdir /run/netns /run/cadastre \
            && mount --rbind /mnt /run/netns && mount --bind "$0" /run/cadastre && exec "$@""#;
        let var_lib = r#"mount --bind "$0" /var/lib && exec "$@""#;
        for (folder, script) in [(&self.private_var_lib, var_lib), (&self.agent_at_default, run)] {
            let Some(folder) = folder else { continue };
            words.extend(["unshare", "--mount", "--propagation", "private", "sh", "-c", script].map(OsString::from));
            words.push(folder.into());
        }
        words.push(self.path.clone().into());
        words.extend_from_slice(&self.args);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        for key in HIDDEN {
            command.env_remove(key);
        }
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.file_name().unwrap_or_default().display())?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", arg.display()))
    }
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Output {
    command: String,
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    fn new(command: String, output: std::process::Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { command, code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Its standard output, or the error with all that it printed.
    pub fn ok(self) -> Result<String> {
        if !self.success() {
            bail!("`{}` failed with {:?}\n{}{}", self.command, self.code, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }

    /// What it said on standard error when it refused; an error if it did not refuse.
    pub fn refused(self) -> Result<String> {
        if self.success() {
            bail!("`{}` was expected to be refused, but succeeded\n{}", self.command, self.stdout);
        }
        Ok(self.stderr)
    }
}
