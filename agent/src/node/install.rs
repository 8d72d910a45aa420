//! The plugin and its configuration on the node: put there, looked after, taken back.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cadastre_runtime::{CniSettings, Conflist};

use super::conflist::{self, Facts, conflist};
use super::others;
use super::place::{self, PlaceError, Stamp};
use crate::regular;

/// What runtimes call our plugin by.
const PLUGIN: &str = "cadastre";

/// Why pods are not attached.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(
        "there is no interface plugin {plugin} in {}: install the reference CNI plugins there (packages kubernetes-cni or containernetworking-plugins), or set cni.interfacePlugin", folder.display()
    )]
    NoInterfacePlugin { plugin: &'static str, folder: PathBuf },
}

/// Keeps them as they should be.
#[derive(Debug)]
pub struct Installer {
    /// Folder of the plugins, with the plugin to put there.
    bin: PathBuf,
    plugin: PathBuf,
    conflist: Option<Conflist>,
    /// The agent's socket.
    socket: String,
    /// The plugin in its place, as it was when it was compared.
    compared: Option<Stamp>,
    /// MTU in the configuration.
    mtu: Option<u32>,
    /// Configurations that runtimes prefer to ours.
    preferred: Vec<String>,
    /// Whether those that an agent before this one set aside were looked for.
    restored: bool,
}

/// The node's MTU, in bytes, as far as it was found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeMtu {
    pub found: Option<u32>,
    /// Whether all interfaces that count are known. Until then what an agent wrote before stays: pods of a restart are no
    /// others.
    pub settled: bool,
}

impl Installer {
    /// `None` if nothing is to be installed. `plugin` is the file to install.
    #[must_use]
    pub fn new(settings: &CniSettings, plugin: PathBuf, socket: &Path) -> Option<Self> {
        let CniSettings { bin_path, conflist, routes: _ } = settings;
        let (socket, conflist) = (socket.display().to_string(), conflist.clone());
        Some(Self {
            bin: bin_path.clone()?,
            plugin,
            conflist,
            socket,
            compared: None,
            mtu: None,
            preferred: Vec::new(),
            restored: false,
        })
    }

    /// Whether the node's MTU has to be found out: it is written, and nobody said it.
    #[must_use]
    pub fn follows_mtu(&self) -> bool {
        self.conflist.as_ref().is_some_and(|conflist| conflist.mtu.is_none())
    }

    /// Puts the plugin in its place, unless it is there.
    pub fn plugin(&mut self) -> Result<(), InstallError> {
        let to = self.bin.join(PLUGIN);
        let there = Stamp::of(&to);
        if there.is_some() && there == self.compared {
            return Ok(());
        }
        let content = regular::read(&self.plugin).map_err(PlaceError::of("read", &self.plugin))?;
        let executable = fs::metadata(&to).is_ok_and(|file| file.is_file() && file.mode() & 0o111 == 0o111);
        if !executable || regular::read(&to).ok().as_ref() != Some(&content) {
            fs::create_dir_all(&self.bin).map_err(PlaceError::of("make", &self.bin))?;
            place::write(&to, &content, 0o755)?;
            tracing::info!(path = %to.display(), "the CNI plugin is installed");
        }
        self.compared = Stamp::of(&to);
        Ok(())
    }

    /// Puts the configuration in its place, unless it is there. From then on the node is Ready.
    pub fn conflist(&mut self, node: NodeMtu) -> Result<(), InstallError> {
        let Some(Conflist { conf_path, interface_plugin, exclusive, mtu }) = &self.conflist else { return Ok(()) };
        let path = conf_path.join(conflist::NAME);
        let there = regular::read_to_string(&path);
        let written = there.as_deref().ok().and_then(conflist::mtu_of);
        let mtu = mtu.or(if node.settled { node.found.or(written) } else { written.or(node.found) });
        self.mtu = mtu;
        let plugin = interface_plugin.name();
        if !self.has(plugin) {
            return Err(InstallError::NoInterfacePlugin { plugin, folder: self.bin.clone() });
        }
        let maps_ports = self.has(conflist::PORT_MAPPER);
        let text = conflist(*interface_plugin, &Facts { mtu, maps_ports, socket: &self.socket });
        if there.as_ref().ok() != Some(&text) {
            fs::create_dir_all(conf_path).map_err(PlaceError::of("make", conf_path))?;
            place::write(&path, text.as_bytes(), 0o600)?;
            let missing = there.is_err_and(|error| error.kind() == ErrorKind::NotFound);
            let was = if missing { "there was none" } else { "it was another" };
            tracing::info!(path = %path.display(), plugin, mtu, was, "the CNI configuration is written");
        }
        if !exclusive && !self.restored {
            self.restored = true;
            others::restore(conf_path).into_iter().next().map_or(Ok(()), Err)?;
        }
        let others = others::of(conf_path)?;
        if *exclusive {
            others.iter().try_for_each(|other| others::set_aside(conf_path, other))?;
        } else {
            let preferred: Vec<String> = others.into_iter().filter(|other| other.as_str() < conflist::NAME).collect();
            if preferred != self.preferred && !preferred.is_empty() {
                let others = preferred.join(", ");
                tracing::warn!(others, "runtimes take these CNI configurations and not ours, unless they call it");
            }
            self.preferred = preferred;
        }
        Ok(())
    }

    /// Whether there is such a plugin. A link may lead to where only the node sees, and not this container.
    fn has(&self, plugin: &str) -> bool {
        self.bin.join(plugin).symlink_metadata().is_ok()
    }

    /// What is there, for people.
    #[must_use]
    pub fn describe(&self, serves: bool) -> String {
        let plugin = self.bin.join(PLUGIN);
        let Some(conflist) = &self.conflist else { return format!("{} installed", plugin.display()) };
        let path = conflist.conf_path.join(conflist::NAME);
        if !serves && !path.exists() {
            return format!("{} installed; the configuration follows with the first block", plugin.display());
        }
        let mtu = self.mtu.map_or_else(String::new, |mtu| format!(", MTU {mtu}"));
        let before = if self.preferred.is_empty() {
            String::new()
        } else {
            format!("; before it: {}", self.preferred.join(", "))
        };
        let kind = conflist.interface_plugin.name();
        format!("{} and {} ({kind}{mtu}){before}", plugin.display(), path.display())
    }

    /// Takes back what was installed: the configuration, and the plugin unless pods are left whose end it has to tell. Goes on
    /// after errors, and returns them.
    #[must_use]
    pub fn remove(&self, pods_left: bool) -> Vec<PlaceError> {
        let mut errors = Vec::new();
        if let Some(Conflist { conf_path, .. }) = &self.conflist {
            errors.extend(place::remove(&conf_path.join(conflist::NAME)).err());
            errors.extend(others::restore(conf_path));
        }
        if !pods_left {
            errors.extend(place::remove(&self.bin.join(PLUGIN)).err());
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use cadastre_runtime::InterfacePlugin;
    use rustix::fs::{CWD, FileType, mknodat};
    use tempfile::TempDir;

    use super::*;

    struct Node {
        folder: TempDir,
        installer: Installer,
    }

    impl Node {
        fn new(exclusive: bool) -> Self {
            let folder = TempDir::new().unwrap();
            let (bin, conf) = (folder.path().join("bin"), folder.path().join("conf"));
            fs::create_dir_all(&conf).unwrap();
            let plugin = folder.path().join("plugin");
            fs::write(&plugin, "plugin").unwrap();
            let conflist = Conflist { conf_path: conf, interface_plugin: InterfacePlugin::Ptp, exclusive, mtu: None };
            let settings = CniSettings { bin_path: Some(bin), conflist: Some(conflist), routes: false };
            let installer = Installer::new(&settings, plugin, Path::new("/s")).unwrap();
            Self { folder, installer }
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.folder.path().join(name), text).unwrap();
        }

        fn pipe(&self, name: &str) {
            mknodat(CWD, self.folder.path().join(name), FileType::Fifo, 0o600.into(), 0).unwrap();
        }

        fn there(&self, folder: &str) -> Vec<String> {
            let mut names = others::names(&self.folder.path().join(folder)).unwrap();
            names.sort();
            names
        }
    }

    #[test]
    fn the_plugin_is_replaced_only_if_it_differs() {
        let mut node = Node::new(false);
        node.installer.plugin().unwrap();
        let path = node.folder.path().join("bin/cadastre");
        let inode = || fs::metadata(&path).unwrap().ino();
        let first = inode();
        node.installer.compared = None;
        node.installer.plugin().unwrap();
        assert_eq!(inode(), first);
        fs::write(&path, "altered").unwrap();
        node.installer.plugin().unwrap();
        assert_eq!((inode() == first, fs::read_to_string(&path).unwrap()), (false, "plugin".to_owned()));
        fs::remove_file(&path).unwrap();
        node.installer.plugin().unwrap();
        assert_eq!(node.there("bin"), ["cadastre"]);
        fs::remove_file(node.folder.path().join("plugin")).unwrap();
        fs::remove_file(&path).unwrap();
        let error = node.installer.plugin().unwrap_err().to_string();
        assert!(error.starts_with("cannot read ") && error.contains("/plugin: No such file"), "{error}");
    }

    #[test]
    fn without_its_interface_plugin_there_is_no_configuration() {
        let mut node = Node::new(false);
        node.installer.plugin().unwrap();
        let error = node.installer.conflist(NodeMtu::default()).unwrap_err().to_string();
        assert!(error.starts_with("there is no interface plugin ptp in "), "{error}");
        assert_eq!(node.there("conf"), [] as [&str; 0]);
        node.write("bin/ptp", "");
        node.installer.conflist(NodeMtu::default()).unwrap();
        assert_eq!(node.there("conf"), ["05-cadastre.conflist"]);
    }

    #[test]
    fn a_plugin_may_be_a_link_to_where_only_the_node_sees() {
        let mut node = Node::new(false);
        node.installer.plugin().unwrap();
        std::os::unix::fs::symlink("/nowhere/ptp", node.folder.path().join("bin/ptp")).unwrap();
        node.installer.conflist(NodeMtu::default()).unwrap();
        assert_eq!(node.there("conf"), ["05-cadastre.conflist"]);
    }

    #[test]
    fn a_pipe_stops_nobody_and_is_replaced() {
        let mut node = Node::new(false);
        fs::create_dir(node.folder.path().join("bin")).unwrap();
        node.write("bin/ptp", "");
        for name in ["bin/cadastre", "conf/05-cadastre.conflist", "conf/10-x.conf.cadastre_bak"] {
            node.pipe(name);
        }
        node.installer.plugin().unwrap();
        node.installer.conflist(NodeMtu::default()).unwrap();
        let is_file = |name: &str| fs::metadata(node.folder.path().join(name)).unwrap().is_file();
        assert_eq!([is_file("bin/cadastre"), is_file("conf/05-cadastre.conflist")], [true, true]);
        assert_eq!(node.there("conf"), ["05-cadastre.conflist", "10-x.conf"]);

        fs::remove_file(node.folder.path().join("plugin")).unwrap();
        node.pipe("plugin");
        node.installer.compared = None;
        let error = node.installer.plugin().unwrap_err().to_string();
        assert!(error.ends_with("/plugin: it is a pipe or a device, and no file"), "{error}");
    }

    #[test]
    fn a_folder_in_the_way_is_named() {
        let mut node = Node::new(false);
        fs::create_dir(node.folder.path().join("bin")).unwrap();
        node.write("bin/ptp", "");
        let root = node.folder.path().to_owned();
        let said = |name: &str, what: &str| {
            let path = root.join(name);
            format!("cannot {what} {}: Is a directory (os error 21); it is a folder: move it away", path.display())
        };
        for name in ["bin/cadastre", "bin/.cadastre.new"] {
            fs::create_dir(root.join(name)).unwrap();
            assert_eq!(node.installer.plugin().unwrap_err().to_string(), said(name, "write"));
            fs::remove_dir(root.join(name)).unwrap();
        }
        for name in ["conf/05-cadastre.conflist", "conf/.05-cadastre.conflist.new"] {
            fs::create_dir(root.join(name)).unwrap();
            assert_eq!(node.installer.conflist(NodeMtu::default()).unwrap_err().to_string(), said(name, "write"));
            fs::remove_dir(root.join(name)).unwrap();
        }
        fs::create_dir(root.join("conf/10-x.conf.cadastre_bak")).unwrap();
        node.write("conf/10-x.conf", "");
        let error = others::set_aside(&root.join("conf"), "10-x.conf").unwrap_err().to_string();
        assert_eq!(error, said("conf/10-x.conf.cadastre_bak", "replace"));
    }

    #[test]
    fn what_is_written_stays_until_the_nodes_mtu_is_known() {
        let mut node = Node::new(false);
        node.installer.plugin().unwrap();
        node.write("bin/ptp", "");
        let steps = [
            (None, false, None),
            (Some(1500), false, Some(1500)),
            (Some(1400), true, Some(1400)),
            (Some(1500), false, Some(1400)),
            (None, true, Some(1400)),
        ];
        for (found, settled, expected) in steps {
            node.installer.conflist(NodeMtu { found, settled }).unwrap();
            let text = fs::read_to_string(node.folder.path().join("conf/05-cadastre.conflist")).unwrap();
            assert_eq!(conflist::mtu_of(&text), expected);
        }
        node.write("conf/05-cadastre.conflist", "{}");
        node.installer.conflist(NodeMtu { found: Some(1500), settled: false }).unwrap();
        assert!(node.installer.describe(true).ends_with("(ptp, MTU 1500)"));
    }

    #[test]
    fn others_stay_unless_we_are_to_be_alone_and_come_back() {
        let files = ["00-multus.conf", "10-flannel.conflist", "200-loopback.conf", "README", "x.conf.off"];
        let mut node = Node::new(false);
        node.installer.plugin().unwrap();
        node.write("bin/ptp", "");
        for name in files {
            node.write(&format!("conf/{name}"), name);
        }
        node.installer.conflist(NodeMtu::default()).unwrap();
        assert_eq!(node.there("conf").len(), files.len() + 1);
        assert_eq!(node.installer.preferred, ["00-multus.conf"]);
        assert!(node.installer.describe(true).ends_with("(ptp); before it: 00-multus.conf"));

        let mut node = Node::new(true);
        node.installer.plugin().unwrap();
        node.write("bin/ptp", "");
        for name in files {
            node.write(&format!("conf/{name}"), name);
        }
        node.installer.conflist(NodeMtu::default()).unwrap();
        let alone =
            ["00-multus.conf", "10-flannel.conflist", "200-loopback.conf"].map(|name| format!("{name}.cadastre_bak"));
        let there = node.there("conf");
        assert!(alone.iter().all(|name| there.contains(name)), "{there:?}");
        assert_eq!(others::of(&node.folder.path().join("conf")).unwrap(), [] as [&str; 0]);

        // No longer alone: they get their names back.
        let conflist = Conflist { exclusive: false, ..node.installer.conflist.clone().unwrap() };
        let mut next = Installer { conflist: Some(conflist), ..node.installer };
        next.conflist(NodeMtu::default()).unwrap();
        assert_eq!(next.preferred, ["00-multus.conf"]);
        let conflist = Conflist { exclusive: true, ..next.conflist.clone().unwrap() };
        node.installer = Installer { conflist: Some(conflist), ..next };
        node.installer.conflist(NodeMtu::default()).unwrap();

        node.write("conf/10-flannel.conflist", "a new one");
        assert!(node.installer.remove(true).is_empty());
        assert_eq!(
            node.there("conf"),
            [
                "00-multus.conf",
                "10-flannel.conflist",
                "10-flannel.conflist.cadastre_bak",
                "200-loopback.conf",
                "README",
                "x.conf.off"
            ]
        );
        assert_eq!(node.there("bin"), ["cadastre", "ptp"], "pods are left, whose end the plugin has to tell");
        assert!(node.installer.remove(false).is_empty());
        assert_eq!(node.there("bin"), ["ptp"]);
    }
}
