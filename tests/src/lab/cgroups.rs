//! The control groups of a node: one in each hierarchy, below those of this process, so that what limits it limits the node.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::reaper::Reaper;
use crate::scratch;

const PREFIX: &str = "cadastre-";

/// A mounted hierarchy, and the group of this process in it.
#[derive(Debug)]
pub(super) struct Hierarchy {
    /// The folder's name under `/sys/fs/cgroup`.
    pub name: String,
    /// How it is mounted: `cgroup2`, or the options of version 1.
    pub options: String,
    own: PathBuf,
}

impl Hierarchy {
    /// All that this process is in.
    pub fn all() -> Result<Vec<Self>> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| path.to_owned());
        let mounts = read("/proc/self/mountinfo")?;
        read("/proc/self/cgroup")?.lines().filter_map(|line| Self::of(line, &mounts).transpose()).collect()
    }

    /// That of a line `9:name=systemd:/path`; none if it is not mounted.
    fn of(line: &str, mounts: &str) -> Result<Option<Self>> {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            bail!("/proc/self/cgroup: {line}")
        };
        let mount = mounts.lines().filter_map(Mount::parse).find(|mount| mount.is_of(controllers));
        Ok(mount.map(|mount| {
            let options = match controllers {
                "" => "cgroup2".to_owned(),
                _ if controllers.starts_with("name=") => format!("none,{controllers}"),
                _ => controllers.to_owned(),
            };
            // In a container the mount shows a part of the hierarchy, and the path begins where it does.
            let below = Path::new(path).strip_prefix(mount.root).or_else(|_| Path::new(path).strip_prefix("/"));
            let name = mount.at.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Self { name, options, own: mount.at.join(below.unwrap_or(Path::new(""))) }
        }))
    }
}

/// What `/proc/self/mountinfo` says of a hierarchy.
struct Mount<'a> {
    root: &'a str,
    at: &'a Path,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let mut right = right.split(' ');
        let (root, at) = (left.next()?, Path::new(left.next()?));
        let (kind, options) = (right.next()?, right.nth(1)?);
        (at.starts_with("/sys/fs/cgroup") && kind.starts_with("cgroup")).then_some(Self { root, at, kind, options })
    }

    fn is_of(&self, controllers: &str) -> bool {
        match controllers {
            "" => self.kind == "cgroup2",
            _ => self.kind == "cgroup" && controllers.split(',').all(|one| self.options.split(',').any(|o| o == one)),
        }
    }
}

/// A group by the same name in every hierarchy, made anew for each life of its node.
#[derive(Debug)]
pub(super) struct Cgroups {
    pub name: String,
    pub hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self { name: name.to_owned(), hierarchies: Hierarchy::all()? })
    }

    /// Makes them. Those of a life before must be gone: kubelet would take seconds for each container in there.
    pub fn create(&self) -> Result<()> {
        Reaper::start()?.cgroup(&self.name)?;
        for hierarchy in &self.hierarchies {
            let group = hierarchy.own.join(&self.name);
            fs::create_dir_all(&group).with_context(|| group.display().to_string())?;
            // Nothing can join one that may use no CPU and no memory.
            for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|file| group.join(file).exists()) {
                fs::write(group.join(file), fs::read(hierarchy.own.join(file))?)
                    .with_context(|| format!("{}/{file}", group.display()))?;
            }
        }
        Ok(())
    }

    /// The files to which a process writes its number to join.
    pub fn doors(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.own.join(&self.name).join("cgroup.procs"))
    }

    /// Removes those of processes that no longer exist, should somebody have killed what was to remove them.
    pub fn sweep() -> Result<()> {
        let hierarchies = Hierarchy::all()?;
        let entries = hierarchies.iter().filter_map(|hierarchy| fs::read_dir(&hierarchy.own).ok()).flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let stale: BTreeSet<String> = names.filter(|name| is_stale(name)).collect();
        if stale.is_empty() {
            return Ok(());
        }
        let reaper = Reaper::start()?;
        stale.iter().try_for_each(|name| reaper.cgroup(name))
    }
}

fn is_stale(name: &str) -> bool {
    let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    owner.is_some_and(scratch::is_dead)
}
