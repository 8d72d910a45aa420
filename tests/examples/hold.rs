//! Starts a control plane, prints its folder and its processes' ids on one line, and stays: a test kills it to see that
//! nothing of it is left.

use cadastre_tests::ControlPlane;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cp = ControlPlane::start().await?;
    println!("{} {} {}", cp.folder().display(), cp.apiserver().pid(), cp.etcd().pid());
    std::future::pending().await
}
