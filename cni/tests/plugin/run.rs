//! Calls of the plugin, four lines long: what is not said is what a healthy runtime passes.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

pub const BINARY: &str = env!("CARGO_BIN_EXE_cadastre");

/// A folder of one test's own, removed at its end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let unique = format!("cadastre-plugin-{}-{}", id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(unique);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Where this folder's agent listens, if one does.
    pub fn socket(&self) -> PathBuf {
        self.0.join("agent.sock")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// The verbs that a version allows, VERSION aside.
pub fn verbs(version: &str) -> &'static [&'static str] {
    match version {
        "0.4.0" | "1.0.0" => &["ADD", "DEL", "CHECK"],
        "1.1.0" => &["ADD", "DEL", "CHECK", "GC", "STATUS"],
        _ => &["ADD", "DEL"],
    }
}

/// What bridge would pass on, with what CHECK and GC need besides.
pub fn netconf(folder: &Folder, version: &str) -> Value {
    json!({
        "cniVersion": version,
        "name": "net",
        "type": "bridge",
        "bridge": "cni0",
        "ipam": { "type": "cadastre", "socket": folder.socket() },
        "prevResult": { "cniVersion": version, "ips": [{ "address": "10.0.2.48/24" }] },
        "cni.dev/valid-attachments": [],
    })
}

/// One call to be made.
pub struct Plugin {
    environment: Vec<(&'static str, OsString)>,
    stdin: Vec<u8>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Plugin {
    /// `verb` with a whole environment.
    pub fn new(verb: &str, netconf: &Value) -> Self {
        Self::bare(verb)
            .with("CNI_CONTAINERID", "c1")
            .with("CNI_IFNAME", "eth0")
            .with("CNI_NETNS", "/proc/self/ns/net")
            .with("CNI_PATH", "/opt/cni/bin")
            .stdin(netconf.to_string())
    }

    /// `verb` and nothing else.
    pub fn bare(verb: &str) -> Self {
        Self { environment: vec![("CNI_COMMAND", verb.into())], stdin: vec![] }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.environment.retain(|(known, _)| *known != name);
        self
    }

    pub fn stdin(mut self, stdin: impl Into<Vec<u8>>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// For what a test wants to do to the process itself.
    pub fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(self) -> Outcome {
        self.run_as(self.command())
    }

    pub fn run_as(&self, mut command: Command) -> Outcome {
        let mut child = command.spawn().unwrap();
        // A plugin that fails early need not have read its stdin.
        drop(child.stdin.take().unwrap().write_all(&self.stdin));
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Outcome {
            exit: output.status.code().expect("no signal"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Outcome {
    /// The one JSON value on stdout, which is a line.
    pub fn json(&self) -> Value {
        assert!(self.stdout.ends_with('\n'), "{self:?}");
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn success(&self) -> Value {
        assert_eq!(self.exit, 0, "{self:?}");
        self.json()
    }

    pub fn silent_success(&self) {
        assert_eq!((self.exit, self.stdout.as_str()), (0, ""), "{self:?}");
    }

    /// A CNI error of this code, said in this version; returns message and details for a closer look.
    pub fn refused(&self, version: &str, code: u32) -> String {
        let error = self.json();
        assert_eq!(self.exit, 1, "{self:?}");
        assert_eq!((&error["cniVersion"], &error["code"]), (&json!(version), &json!(code)), "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        let text = |key: &str| error.get(key).map_or("", |text| text.as_str().unwrap()).to_owned();
        assert!(!text("msg").is_empty(), "{self:?}");
        format!("{} – {}", text("msg"), text("details"))
    }
}
