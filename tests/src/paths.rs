//! Where tools and our own binaries lie: the Makefile says so by environment; under plain `cargo test` we ask the same
//! scripts.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};

/// The root of the checkout.
pub fn repo() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The folder with Kubernetes, etcd, Helm, the CNI plugins and cnitool.
pub fn tools() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| folder("CADASTRE_TOOLS", "tools-path"))
}

/// A program among the tools.
pub fn tool(name: &str) -> Result<PathBuf> {
    existing(&tools().join(name))
}

/// A release binary of ours: `cadastre-operator`, `cadastre-agent` or the plugin `cadastre`.
pub fn binary(name: &str) -> Result<PathBuf> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    existing(&FOLDER.get_or_init(|| folder("CADASTRE_BIN", "bin-path")).join(name))
}

fn folder(variable: &str, target: &str) -> PathBuf {
    let asked = || {
        let output = Command::new("make").arg("-s").arg("-C").arg(repo()).arg(target).output().ok()?;
        Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
    };
    env::var_os(variable).map(PathBuf::from).or_else(asked).unwrap_or_default()
}

fn existing(path: &Path) -> Result<PathBuf> {
    if !path.exists() {
        bail!("{} does not exist: run `make tools release` first", path.display());
    }
    path.canonicalize().with_context(|| format!("resolving {}", path.display()))
}
