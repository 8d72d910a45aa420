//! A real etcd and kube-apiserver on loopback, ready a few seconds after the call, with a folder of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Node;
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::OnceCell;

use crate::flags::{self, Files, Ports};
use crate::home::Home;
use crate::tokens::{ADMIN, MANAGER, SCHEDULER};
use crate::{Builder, Proc, Program, Scratch, access, eventually};

/// Ready takes about 4 s on an idle machine; tests keep every core busy.
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// A server that takes longer to say whether it is ready is asked anew.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests at once when many objects are created.
const CONCURRENT_CREATES: usize = 32;

/// etcd, kube-apiserver and, if asked for, kube-controller-manager and kube-scheduler. Dropping it ends them and removes their folder.
pub struct ControlPlane {
    // Fields are dropped in this order: processes before the folder they write to.
    scheduler: Option<Proc>,
    manager: Option<Proc>,
    apiserver: Proc,
    etcd: Proc,
    /// The client with which it was first seen to be ready.
    admin: OnceCell<Client>,
    /// Numbers the requests that [`ControlPlane::audit`] makes.
    pub(crate) audit_markers: AtomicUsize,
    pub(crate) files: Files,
    ports: Ports,
    home: Option<Home>,
    pub(crate) scratch: Scratch,
}

impl ControlPlane {
    /// With default settings.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    /// `https://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.home.as_ref().map_or(self.ports.api, Home::port))
    }

    /// Where etcd serves its clients.
    pub fn etcd_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.etcd)
    }

    /// The folder of this control plane, for files of the test as well; removed with it.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// A client that may do everything.
    pub async fn admin(&self) -> Result<Client> {
        Ok(self.admin.get_or_try_init(|| access::client(self.kubeconfig(self.files.tokens.of(ADMIN)))).await?.clone())
    }

    /// The administrator's kubeconfig file.
    pub fn kubeconfig_admin(&self) -> Result<PathBuf> {
        self.scratch.write("admin.kubeconfig", self.kubeconfig(self.files.tokens.of(ADMIN)).to_string())
    }

    /// Runs `kubectl` as administrator.
    pub async fn kubectl(&self, args: &[&str]) -> Result<crate::Output> {
        self.kubectl_program()?.args(args).run().await
    }

    /// `kubectl apply -f -` as administrator.
    pub async fn apply(&self, yaml: &str) -> Result<crate::Output> {
        self.kubectl_program()?.args(["apply", "-f", "-"]).stdin(yaml).run().await
    }

    /// `kubectl` as administrator, for options that [`ControlPlane::kubectl`] has not.
    pub fn kubectl_program(&self) -> Result<Program> {
        let program = Program::tool("kubectl")?
            .env("KUBECONFIG", self.kubeconfig_admin()?)
            .env("KUBECACHEDIR", self.folder().join("kube-cache"));
        Ok(program)
    }

    /// Creates Nodes, many at once.
    pub async fn create_nodes(&self, nodes: impl IntoIterator<Item = impl Into<Node>>) -> Result<Vec<Node>> {
        let api = Api::<Node>::all(self.admin().await?);
        let nodes: Vec<Node> = nodes.into_iter().map(Into::into).collect();
        let creates = nodes.into_iter().map(|node| {
            let api = api.clone();
            async move { api.create(&PostParams::default(), &node).await }
        });
        Ok(stream::iter(creates).buffered(CONCURRENT_CREATES).try_collect().await?)
    }

    /// Creates an object of a namespace.
    pub async fn create_in<K>(&self, namespace: &str, object: &K) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + Serialize + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(self.admin().await?, namespace);
        Ok(api.create(&PostParams::default(), object).await?)
    }

    /// Kills the API server.
    pub fn stop_apiserver(&self) {
        self.apiserver.kill9();
    }

    /// Starts the API server anew on the same port, killing it first if it runs, and waits until it is ready.
    pub async fn restart_apiserver(&self) -> Result<()> {
        self.apiserver.restart()?;
        self.wait_ready().await
    }

    /// The API server's process, to freeze it or to read its log.
    pub fn apiserver(&self) -> &Proc {
        &self.apiserver
    }

    /// Kills etcd.
    pub fn kill_etcd(&self) {
        self.etcd.kill9();
    }

    /// Starts etcd anew with its data, and waits until the API server is ready again.
    pub async fn start_etcd(&self) -> Result<()> {
        self.etcd.restart()?;
        self.wait_ready().await
    }

    /// Deletes what etcd has under these prefixes of `/registry/`, past every rule of the API server: as if it had never
    /// been.
    pub async fn forget(&self, prefixes: &[&str]) -> Result<()> {
        for prefix in prefixes {
            let etcdctl = self.at_home(Program::tool("etcdctl")?.args(["--endpoints", &self.etcd_url()]));
            etcdctl.args(["del", "--prefix", &format!("/registry/{prefix}")]).run().await?.ok()?;
        }
        Ok(())
    }

    /// Saves a snapshot of etcd.
    pub async fn snapshot(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder().join(format!("{name}.snapshot"));
        self.at_home(flags::etcd_save(self.ports, &path)?).run().await?.ok()?;
        Ok(path)
    }

    /// Ends API server and etcd, restores a snapshot with `etcdutl` and these further flags, and starts both again.
    pub async fn restore(&self, snapshot: &Path, flags: &[&str]) -> Result<()> {
        self.apiserver.kill9();
        self.etcd.kill9();
        std::fs::remove_dir_all(&self.files.etcd_data)?;
        flags::etcd_restore(&self.files, self.ports, snapshot, flags)?.run().await?.ok()?;
        self.etcd.restart()?;
        self.apiserver.restart()?;
        self.wait_ready().await?;
        // It is ready before it serves custom resources.
        eventually(START_TIMEOUT, "Cadastre's kinds to be served", async || self.ipam_nodes().await).await?;
        Ok(())
    }

    /// The process of etcd.
    pub fn etcd(&self) -> &Proc {
        &self.etcd
    }

    /// The controller manager's process, if there is one.
    pub fn controller_manager(&self) -> Option<&Proc> {
        self.manager.as_ref()
    }

    fn at_home(&self, program: Program) -> Program {
        Home::program(self.home.as_ref(), program)
    }

    pub(crate) fn kubeconfig(&self, token: &str) -> serde_json::Value {
        access::kubeconfig(&self.url(), &self.files.ca, token)
    }

    pub(crate) fn launch(builder: &Builder) -> Result<Self> {
        let scratch = Scratch::new()?;
        let (home, nodes) = match &builder.among {
            Some((netns, nodes)) => (Some(Home::new(Arc::clone(netns))?), nodes.as_slice()),
            None => (None, [].as_slice()),
        };
        let files = Files::write(&scratch, nodes)?;
        let (ports, place) = match home {
            Some(_) => (Ports::fixed(), flags::with_nodes()),
            None => (Ports::free()?, flags::alone()),
        };
        let etcd = Home::program(home.as_ref(), flags::etcd(&files, ports)?).start(scratch.path(), "etcd")?;
        let audit = if builder.audit { flags::audit(&files).to_vec() } else { Vec::new() };
        let apiserver = flags::apiserver(&files, ports, &builder.service_cidr)?.args(place);
        let apiserver = Home::program(home.as_ref(), apiserver.args(audit).args(&builder.apiserver_flags));
        let apiserver = apiserver.start(scratch.path(), "kube-apiserver")?;
        Ok(Self {
            scheduler: None,
            manager: None,
            apiserver,
            etcd,
            admin: OnceCell::new(),
            audit_markers: AtomicUsize::new(0),
            files,
            ports,
            home,
            scratch,
        })
    }

    pub(crate) fn start_manager(&mut self, flags: &[String]) -> Result<()> {
        let kubeconfig =
            self.scratch.write("manager.kubeconfig", self.kubeconfig(self.files.tokens.of(MANAGER)).to_string())?;
        let certs = self.scratch.folder("manager-certs")?;
        let program = flags::controller_manager(&self.files, &kubeconfig, &certs, flags)?;
        self.manager = Some(program.start(self.scratch.path(), "kube-controller-manager")?);
        Ok(())
    }

    pub(crate) fn start_scheduler(&mut self) -> Result<()> {
        let kubeconfig = self.kubeconfig(self.files.tokens.of(SCHEDULER)).to_string();
        let kubeconfig = self.scratch.write("scheduler.kubeconfig", kubeconfig)?;
        let program = flags::scheduler(&kubeconfig, &self.scratch.folder("scheduler-certs")?)?;
        self.scheduler = Some(program.start(self.scratch.path(), "kube-scheduler")?);
        Ok(())
    }

    /// Waits for `/readyz`, unless a process ends.
    pub(crate) async fn wait_ready(&self) -> Result<()> {
        let ready = eventually(START_TIMEOUT, "the API server to be ready", async || {
            if !self.etcd.is_running() || !self.apiserver.is_running() {
                return anyhow::Ok(false);
            }
            tokio::time::timeout(ANSWER_TIMEOUT, self.ask_ready()).await??;
            Ok(true)
        });
        let reason = match ready.await {
            Ok(true) => return Ok(()),
            Ok(false) => "a process ended".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        bail!("the control plane did not start: {reason}\n{}\n{}", self.etcd.tail(), self.apiserver.tail());
    }

    async fn ask_ready(&self) -> Result<()> {
        self.admin().await?.request_text(http::Request::get("/readyz").body(Vec::new())?).await?;
        Ok(())
    }

    pub(crate) fn lost_a_port(&self) -> bool {
        [&self.etcd, &self.apiserver].iter().any(|process| process.log_contains("address already in use"))
    }
}
