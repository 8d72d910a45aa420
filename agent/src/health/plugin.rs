//! Calls the interface plugin of a CNI configuration as a runtime would. `portmap`, which may follow it, has nothing to do for who
//! asks for no port.
//!
//! A container's `/proc/sys` is read-only, and plugins set `keep_addr_on_down` of an interface that gets an IPv6 address. So they
//! are started by a thread with mounts of its own, in which it can be written; the agent's stay as they are.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpgid};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::CONTAINER_ID;

/// An ADD may wait 3 s for an agent and 25 s for an address.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of what a plugin says; a result has a few hundred bytes.
const LONGEST: u64 = 64 * 1024;

const PROC_SYS: &str = "/proc/sys";

/// A verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("the CNI configuration names no interface plugin")]
    NoPlugin,
    #[error(
        "{} cannot be run by the agent: it is linked to libraries of the node, which the agent's image has not; install static reference plugins, or set healthEndpoint.enabled: false",
        path.display()
    )]
    Dynamic { path: PathBuf },
    #[error("cannot run {}: {source}", path.display())]
    NotRun { path: PathBuf, source: io::Error },
    #[error("{plugin} did not end in {} s: see whether the node is short of CPU", PATIENCE.as_secs())]
    Slow { plugin: String },
    #[error("{plugin} says: {said}{}", remedy(said))]
    Refused { plugin: String, said: String },
}

fn remedy(said: &str) -> &'static str {
    let said = said.to_lowercase();
    if said.contains("read-only file system") || said.contains("permission denied") {
        return "; the node forbids the agent to write /proc/sys: set agent.podSecurityContext.appArmorProfile.type: Unconfined, or healthEndpoint.enabled: false";
    }
    ""
}

/// The plugin and what it is to read.
fn interface_plugin(conflist: &str) -> Option<(String, Vec<u8>)> {
    let list: Value = serde_json::from_str(conflist).ok()?;
    let mut config = list["plugins"].get(0)?.as_object()?.clone();
    let plugin = config.get("type")?.as_str()?.to_owned();
    for key in ["cniVersion", "name"] {
        config.insert(key.to_owned(), list[key].clone());
    }
    // Only a name: the folder is ours to say.
    let is_name = Path::new(&plugin).file_name().is_some_and(|name| name == plugin.as_str());
    is_name.then(|| (plugin, Value::Object(config).to_string().into_bytes()))
}

/// One call about our attachment in this namespace; of a DEL the namespace may be gone. Returns what the plugin says.
pub async fn call(verb: Verb, conflist: &str, bin: &Path, netns: &str) -> Result<Value, PluginError> {
    let (plugin, input) = interface_plugin(conflist).ok_or(PluginError::NoPlugin)?;
    let path = bin.join(&plugin);
    let mut command = Command::new(&path);
    command.env_clear().envs([
        ("CNI_COMMAND", if verb == Verb::Add { "ADD" } else { "DEL" }),
        ("CNI_CONTAINERID", CONTAINER_ID),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", netns),
    ]);
    command.env("CNI_PATH", bin).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.process_group(0);
    let (said_to, said) = oneshot::channel();
    let ended = || io::Error::other("the thread that starts plugins has failed");
    let spawned = std::thread::Builder::new().name("cni".to_owned()).spawn(move || {
        // Nobody waits any more if the agent is stopping.
        drop(said_to.send(run(command, &input)));
    });
    let said = match spawned {
        Ok(_) => said.await.unwrap_or_else(|_| Err(ended())),
        Err(error) => Err(error),
    };
    match said {
        Ok(Some((true, said))) => Ok(serde_json::from_slice(&said).unwrap_or_default()),
        Ok(Some((false, said))) => Err(PluginError::Refused { plugin, said: in_words(&said) }),
        Ok(None) => Err(PluginError::Slow { plugin }),
        // The file is there: what is missing is the linker that it names.
        Err(error) if error.kind() == ErrorKind::NotFound && path.exists() => Err(PluginError::Dynamic { path }),
        Err(source) => Err(PluginError::NotRun { path, source }),
    }
}

/// Message and details of a CNI error, or whatever was said.
fn in_words(said: &[u8]) -> String {
    let error: Value = serde_json::from_slice(said).unwrap_or_default();
    match (error["msg"].as_str(), error["details"].as_str().unwrap_or_default()) {
        (Some(msg), "") => msg.to_owned(),
        (Some(msg), details) => format!("{msg} ({details})"),
        (None, _) => String::from_utf8_lossy(said).trim().to_owned(),
    }
}

/// Whether it succeeded, and its standard output; `None` if it took too long and was killed.
fn run(mut command: Command, input: &[u8]) -> io::Result<Option<(bool, Vec<u8>)>> {
    if let Err(error) = make_proc_sys_writable() {
        // Without IPv6 nobody needs it; else the plugin says what it misses.
        tracing::debug!(%error, "the plugin cannot write {PROC_SYS}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut child = command.spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut said = Vec::new();
        let exchange = async {
            if let Some(mut stdin) = stdin {
                // One that does not read says why by its output.
                drop(stdin.write_all(input).await);
            }
            if let Some(stdout) = stdout {
                stdout.take(LONGEST).read_to_end(&mut said).await?;
            }
            child.wait().await
        };
        if let Ok(ended) = timeout(PATIENCE, exchange).await {
            return Ok(Some((ended?.success(), said)));
        }
        if let Some(group) = group {
            kill_process_group(group, Signal::KILL)?;
            child.wait().await?;
            // As process 1 of a container we are given what it started as well; elsewhere there is nobody to wait for.
            while waitpgid(group, WaitOptions::empty()).is_ok_and(|ended| ended.is_some()) {}
        }
        Ok(None)
    })
}

/// In this thread, and what it starts.
fn make_proc_sys_writable() -> io::Result<()> {
    if !statvfs(PROC_SYS)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(None::<&str>, PROC_SYS, None::<&str>, flags, None::<&str>)?)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    const CONFLIST: &str =
        r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "p", "mtu": 1400}, {"type": "portmap"}]}"#;

    fn plugin(script: &str) -> TempDir {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("p");
        fs::write(&path, format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[tokio::test]
    async fn it_is_called_as_a_runtime_calls_it() {
        let folder =
            plugin(r#"printf '{"config": %s, "env": "%s"}' "$(cat)" "$(env | grep CNI_ | sort | tr '\n' ' ')""#);
        let bin = folder.path();
        let said = call(Verb::Add, CONFLIST, bin, "/proc/1/ns/net").await.unwrap();
        assert_eq!(said["config"], json!({"cniVersion": "1.0.0", "name": "net", "type": "p", "mtu": 1400}));
        let expected = format!(
            "CNI_COMMAND=ADD CNI_CONTAINERID=cadastre-health CNI_IFNAME=eth0 CNI_NETNS=/proc/1/ns/net CNI_PATH={} ",
            bin.display()
        );
        assert_eq!(said["env"], expected.as_str());
    }

    #[tokio::test]
    async fn what_goes_wrong_is_said() {
        let refused =
            async |script: &str| call(Verb::Del, CONFLIST, plugin(script).path(), "").await.unwrap_err().to_string();
        let error = r#"echo '{"code": 101, "msg": "full", "details": "add a CIDR"}'; exit 1"#;
        assert_eq!(refused(error).await, "p says: full (add a CIDR)");
        assert_eq!(refused("echo nonsense; exit 1").await, "p says: nonsense");
        let said = refused(r#"echo '{"msg": "open x: read-only file system"}'; exit 1"#).await;
        assert!(said.contains("appArmorProfile"), "{said}");
        let folder = plugin("");
        let path = folder.path().join("p");
        fs::write(&path, "#!/no/such/linker\n").unwrap();
        let said = call(Verb::Add, CONFLIST, folder.path(), "").await.unwrap_err();
        assert!(matches!(said, PluginError::Dynamic { .. }), "{said}");
        fs::remove_file(&path).unwrap();
        let said = call(Verb::Add, CONFLIST, folder.path(), "").await.unwrap_err();
        assert!(matches!(said, PluginError::NotRun { .. }), "{said}");
        for wrong in ["", "{}", r#"{"plugins": [{"type": "../p"}]}"#] {
            let said = call(Verb::Add, wrong, folder.path(), "").await.unwrap_err();
            assert!(matches!(said, PluginError::NoPlugin), "{wrong}: {said}");
        }
    }
}
