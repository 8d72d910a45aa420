//! The validated settings as the engine wants them.

use cadastre_api::DEFAULT_POOL;
use cadastre_engine::{ConfiguredPool, EngineSettings};
use cadastre_runtime::{ModeSettings, Settings};

/// `recover`: assign nothing until agents have said what they hold.
pub fn engine_settings(settings: &Settings, recover: bool) -> EngineSettings {
    let (required, pools, reserved) = match &settings.mode {
        ModeSettings::Kubernetes(kubernetes) => (kubernetes.required.clone(), Vec::new(), Vec::new()),
        ModeSettings::ClusterPool(cluster_pool) => {
            let pools = cluster_pool.pools.iter().map(|pool| ConfiguredPool {
                pool: DEFAULT_POOL.to_owned(),
                family: pool.family,
                cidrs: pool.cidrs.clone(),
                mask_size: pool.mask_size,
            });
            (Vec::new(), pools.collect(), cluster_pool.reserved.clone())
        }
    };
    EngineSettings {
        mode: settings.mode.mode(),
        families: settings.families.clone(),
        required,
        pools,
        reserved,
        block_cooling: settings.operator.block_cooling,
        remove_taints: settings.operator.remove_node_taints,
        set_network_status: settings.operator.set_node_network_status,
        recover,
    }
}
