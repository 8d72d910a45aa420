//! How etcd, the API server, the controller manager and the scheduler are started, and the files they read.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::KeyPair;
use serde_json::json;

use crate::certificate::Certificate;
use crate::home::API;
use crate::tokens::Tokens;
use crate::{Program, Scratch};

/// The files of a control plane's folder.
#[derive(Debug)]
pub(crate) struct Files {
    /// What to trust.
    pub ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    pub audit_log: PathBuf,
    sa_key: PathBuf,
    sa_pub: PathBuf,
    pub tokens: Tokens,
    token_file: PathBuf,
    audit_policy: PathBuf,
    pub etcd_data: PathBuf,
}

impl Files {
    pub fn write(scratch: &Scratch, nodes: &[String]) -> Result<Self> {
        let key = KeyPair::generate().context("generating the key of ServiceAccount tokens")?;
        let tokens = Tokens::new(nodes);
        let Certificate { authority, chain, key: certified } =
            Certificate::new().context("certifying the API server")?;
        Ok(Self {
            ca: scratch.write("ca.crt", authority)?,
            certificate: scratch.write("apiserver.crt", chain)?,
            key: scratch.write("apiserver.key", certified)?,
            audit_log: scratch.path().join("audit.log"),
            sa_key: scratch.write("sa.key", key.serialize_pem())?,
            sa_pub: scratch.write("sa.pub", key.public_key_pem())?,
            token_file: scratch.write("tokens.csv", tokens.csv())?,
            tokens,
            audit_policy: scratch.write("audit-policy.json", audit_policy())?,
            etcd_data: scratch.path().join("etcd"),
        })
    }
}

/// Who did what to the objects that tests count writes and reads of.
fn audit_policy() -> String {
    let resources = json!([
        {"group": "cadastre.io"},
        {"group": "", "resources": ["nodes", "nodes/status", "events", "pods", "namespaces"]},
        {"group": "events.k8s.io"},
        {"group": "coordination.k8s.io"},
        {"group": "networking.k8s.io"},
        {"group": "apps", "resources": ["daemonsets"]},
    ]);
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "resources": resources}, {"level": "None"}],
    });
    policy.to_string()
}

/// Ports of one life of a control plane. They are free now; whoever takes one in between makes the start fail, and it is
/// tried again with others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub api: u16,
    pub etcd: u16,
    etcd_peer: u16,
}

impl Ports {
    pub fn free() -> Result<Self> {
        // All three are held at once, so that they differ.
        let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0"));
        let mut ports = [0; 3];
        for (port, listener) in ports.iter_mut().zip(held) {
            *port = listener?.local_addr()?.port();
        }
        let [api, etcd, etcd_peer] = ports;
        Ok(Self { api, etcd, etcd_peer })
    }

    /// Those of a control plane that has a network namespace to itself.
    pub const fn fixed() -> Self {
        Self { api: API.port(), etcd: 2379, etcd_peer: 2380 }
    }
}

pub(crate) fn etcd(files: &Files, ports: Ports) -> Result<Program> {
    let client = format!("http://127.0.0.1:{}", ports.etcd);
    let peer = format!("http://127.0.0.1:{}", ports.etcd_peer);
    let program = Program::tool("etcd")?
        .arg(flag("data-dir", files.etcd_data.display()))
        .arg(flag("listen-client-urls", &client))
        .arg(flag("advertise-client-urls", &client))
        .arg(flag("listen-peer-urls", &peer))
        .arg(flag("initial-advertise-peer-urls", &peer))
        .arg(flag("initial-cluster", format!("default={peer}")))
        // A test's data need not survive the machine.
        .arg("--unsafe-no-fsync");
    Ok(program)
}

/// `etcdctl snapshot save`.
pub(crate) fn etcd_save(ports: Ports, snapshot: &Path) -> Result<Program> {
    let endpoint = flag("endpoints", format!("http://127.0.0.1:{}", ports.etcd));
    Ok(Program::tool("etcdctl")?.arg(endpoint).args(["snapshot", "save"]).arg(snapshot))
}

/// `etcdutl snapshot restore`, in place of the data there are.
pub(crate) fn etcd_restore(files: &Files, ports: Ports, snapshot: &Path, more: &[&str]) -> Result<Program> {
    let peer = format!("http://127.0.0.1:{}", ports.etcd_peer);
    let program = Program::tool("etcdutl")?
        .args(["snapshot", "restore"])
        .arg(snapshot)
        .arg(flag("data-dir", files.etcd_data.display()))
        .arg(flag("initial-advertise-peer-urls", &peer))
        .arg(flag("initial-cluster", format!("default={peer}")))
        .args(more);
    Ok(program)
}

/// On loopback, for tests without a kubelet.
pub(crate) fn alone() -> Vec<String> {
    vec![
        flag("bind-address", "127.0.0.1"),
        // Without one it looks for a default route, and a machine without a network has none. With no reconciler it
        // does not try to make a Service's endpoint of it.
        flag("advertise-address", "127.0.0.1"),
        flag("endpoint-reconciler-type", "none"),
        // It refuses pods of a namespace without a `default` ServiceAccount, which only the controller manager makes.
        flag("disable-admission-plugins", "ServiceAccount"),
    ]
}

/// In a network of nodes, whose kubelets it calls.
pub(crate) fn with_nodes() -> Vec<String> {
    vec![
        flag("bind-address", "0.0.0.0"),
        flag("advertise-address", API.ip()),
        flag("external-hostname", API.ip()),
        flag("enable-admission-plugins", "NodeRestriction"),
        flag("kubelet-preferred-address-types", "InternalIP"),
        // Webhooks are called at their pods' addresses: nothing makes Services' addresses work here.
        flag("enable-aggregator-routing", "true"),
    ]
}

pub(crate) fn apiserver(files: &Files, ports: Ports, service_cidr: &str) -> Result<Program> {
    let flags = [
        flag("etcd-servers", format!("http://127.0.0.1:{}", ports.etcd)),
        flag("secure-port", ports.api),
        flag("tls-cert-file", files.certificate.display()),
        flag("tls-private-key-file", files.key.display()),
        flag("service-account-issuer", "https://kubernetes.default.svc"),
        flag("service-account-key-file", files.sa_pub.display()),
        flag("service-account-signing-key-file", files.sa_key.display()),
        flag("token-auth-file", files.token_file.display()),
        flag("authorization-mode", "Node,RBAC"),
        flag("service-cluster-ip-range", service_cidr),
        flag("allow-privileged", "true"),
    ];
    Ok(Program::tool("kube-apiserver")?.args(flags))
}

/// Makes the API server keep an audit log.
pub(crate) fn audit(files: &Files) -> [String; 2] {
    [flag("audit-policy-file", files.audit_policy.display()), flag("audit-log-path", files.audit_log.display())]
}

pub(crate) fn controller_manager(files: &Files, kubeconfig: &Path, certs: &Path, more: &[String]) -> Result<Program> {
    let flags = [
        flag("kubeconfig", kubeconfig.display()),
        flag("leader-elect", "false"),
        flag("use-service-account-credentials", "true"),
        flag("service-account-private-key-file", files.sa_key.display()),
        flag("root-ca-file", files.ca.display()),
        flag("cert-dir", certs.display()),
        // No server: its port would clash with other tests'.
        flag("secure-port", "0"),
    ];
    Ok(Program::tool("kube-controller-manager")?.args(flags).args(more))
}

pub(crate) fn scheduler(kubeconfig: &Path, certs: &Path) -> Result<Program> {
    let flags = [
        flag("kubeconfig", kubeconfig.display()),
        flag("leader-elect", "false"),
        flag("cert-dir", certs.display()),
        flag("secure-port", "0"),
    ];
    Ok(Program::tool("kube-scheduler")?.args(flags))
}

pub(crate) fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}
