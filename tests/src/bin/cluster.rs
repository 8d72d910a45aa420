//! `make cluster` and `make cluster-down`: a cluster that stays up between the two, kept by a process of its own.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;
use std::{env, process};

use anyhow::{Context as _, Result, bail};
use cadastre_tests::{Lab, eventually, tools};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

const UP_TIMEOUT: Duration = Duration::from_mins(3);
const DOWN_TIMEOUT: Duration = Duration::from_mins(1);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let folder = folder()?;
    match env::args().nth(1).as_deref() {
        Some("up") => up(&folder).await,
        Some("down") => down(&folder).await,
        Some("keep") => keep(&folder).await,
        _ => bail!("usage: cluster up|down"),
    }
}

/// Where it says how to use it, and its keeper's number.
fn folder() -> Result<PathBuf> {
    let cache = env::var_os("CADASTRE_CACHE").context("CADASTRE_CACHE is not set: call it by `make cluster`")?;
    let folder = Path::new(&cache).join("cluster");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// Held by the keeper for as long as it lives: a number alone could be another process' by now.
fn lock(folder: &Path) -> Result<Option<File>> {
    let path = folder.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error).with_context(|| path.display().to_string()),
    }
}

async fn up(folder: &Path) -> Result<()> {
    let usage = folder.join("usage");
    if let Some(free) = lock(folder)? {
        if let Err(reason) = Lab::possible() {
            bail!("no cluster on this machine: {reason}");
        }
        drop(free);
        // Of a keeper that was killed.
        let _ = fs::remove_file(&usage);
        let log = File::create(folder.join("log"))?;
        let mut keeper = Command::new(env::current_exe()?);
        keeper.arg("keep").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut keeper = keeper.spawn().context("starting the cluster's keeper")?;
        eventually(UP_TIMEOUT, "the cluster", async || {
            usage.exists() || keeper.try_wait().is_ok_and(|ended| ended.is_some())
        })
        .await?;
    }
    match fs::read_to_string(&usage) {
        Ok(text) => print!("{text}"),
        Err(_) => bail!("the cluster did not come up:\n{}", fs::read_to_string(folder.join("log"))?),
    }
    Ok(())
}

async fn down(folder: &Path) -> Result<()> {
    if lock(folder)?.is_none() {
        let pid = fs::read_to_string(folder.join("pid"))?;
        let pid = Pid::from_raw(pid.trim().parse()?).context("the keeper has no number")?;
        kill_process(pid, Signal::TERM).context("ending the cluster's keeper")?;
        eventually(DOWN_TIMEOUT, "the cluster to end", async || lock(folder).is_ok_and(|free| free.is_some())).await?;
    }
    fs::remove_dir_all(folder).with_context(|| folder.display().to_string())
}

/// Holds the cluster until it is told to end.
async fn keep(folder: &Path) -> Result<()> {
    let Some(_lock) = lock(folder)? else { bail!("a cluster is up already") };
    fs::write(folder.join("pid"), process::id().to_string())?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let lab = tokio::select! {
        lab = Lab::start() => lab?,
        _ = term.recv() => return Ok(()),
        _ = int.recv() => return Ok(()),
    };
    let partial = folder.join("usage.partial");
    fs::write(&partial, usage(folder, &lab)?)?;
    fs::rename(&partial, folder.join("usage"))?;
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    drop(lab);
    Ok(())
}

/// Writes what people need, and says how to use it.
fn usage(folder: &Path, lab: &Lab) -> Result<String> {
    fs::copy(lab.cp.kubeconfig_admin()?, folder.join("kubeconfig"))?;
    fs::write(folder.join("values.yaml"), Lab::IMAGE_VALUES)?;
    let mut text = format!(
        "Two nodes are up; pods of theirs start once the chart is installed.

  export KUBECONFIG={folder}/kubeconfig PATH={tools}:$PATH
  helm install cadastre charts/cadastre --namespace kube-system --values {folder}/values.yaml --wait
  kubectl run try --image={pause} --image-pull-policy=Never
  kubectl get nodes,pods -A -o wide
",
        folder = folder.display(),
        tools = tools().display(),
        pause = Lab::pause_image(),
    );
    for node in &lab.nodes {
        let script = folder.join(node.name());
        fs::write(&script, format!("#!/bin/sh\nexec {} \"$@\"\n", node.entrance()))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        writeln!(text, "  {} ip address     # any command in {}", script.display(), node.name())?;
    }
    writeln!(text, "  make cluster-down")?;
    Ok(text)
}
