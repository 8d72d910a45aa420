//! A control plane to play with: `cargo run -p cadastre-tests --bin control-plane` prints how to reach it and keeps it
//! until it is interrupted. A test kills it to see that nothing of it is left.

use cadastre_tests::ControlPlane;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cp = ControlPlane::start().await?;
    println!("export KUBECONFIG={}", cp.kubeconfig_admin()?.display());
    println!("# processes {} {}; Ctrl-C ends them", cp.apiserver().pid(), cp.etcd().pid());
    tokio::signal::ctrl_c().await?;
    Ok(())
}
