//! The images that `make images` built, and the values by which the chart finds them on a node.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::Lab;
use crate::paths;

/// The images of operator, agent, and of pods that do nothing.
pub(super) const IMAGES: [&str; 3] = ["cadastre-pause", "cadastre-operator", "cadastre-agent"];

/// All programs and charts of a checkout have one version.
pub(super) fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// The archive of an image.
pub(super) fn archive(name: &str) -> Result<PathBuf> {
    let path = paths::binary("cadastre-agent")?.with_file_name("images").join(format!("{name}-{}.tar", version()));
    if !path.exists() {
        bail!("{} does not exist: run `make images` first", path.display());
    }
    Ok(path)
}

impl Lab {
    /// The chart's values for images as they are on the nodes.
    pub const IMAGE_VALUES: &str = "operator: {image: {repository: localhost/cadastre/operator}}
agent: {image: {repository: localhost/cadastre/agent}}
";

    /// Fails unless they are built.
    pub fn images() -> Result<()> {
        IMAGES.iter().try_for_each(|name| archive(name).map(drop))
    }

    /// The image of pods that do nothing. It has busybox, as `/bin/busybox`.
    pub fn pause_image() -> String {
        format!("localhost/cadastre/pause:{}", version())
    }
}

/// The same values as Helm's flags, beside those of a test.
pub(super) const FLAGS: [&str; 2] = [
    "--set=operator.image.repository=localhost/cadastre/operator",
    "--set=agent.image.repository=localhost/cadastre/agent",
];
