//! What a schedule has in it, and how it is run to its end and judged.

use std::time::Duration;

use cadastre_api::Mode;
use cadastre_core::Family;
use cadastre_engine::EngineSettings;

use crate::broken::Rule;
use crate::world::{Simulation, settings};

/// Effects in a schedule, at least.
const EFFECTS: usize = 200;
/// Steps in a schedule, at most, should nothing need doing.
const STEPS: usize = 8_000;

/// What is run under each seed.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub operators: usize,
    /// Steps in a schedule, at least.
    pub steps: usize,
    pub families: &'static [Family],
    pub v4: &'static str,
    /// Somebody edits and deletes objects.
    pub foreign_hands: bool,
    /// The store goes back to what it was, once.
    pub restore: bool,
    /// Kubernetes mode, with podCIDRs that overlap.
    pub mirror: bool,
    pub broken: Option<Rule>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            operators: 1,
            steps: 400,
            families: &[Family::V4],
            v4: "10.0.0.0/18",
            foreign_hands: false,
            restore: false,
            mirror: false,
            broken: None,
        }
    }
}

/// Which seeds to run.
pub struct Seeds(std::ops::Range<u64>);

/// `CADASTRE_SEED` alone, else as many as `CADASTRE_SEEDS` says, else `usual`.
pub fn seeds(usual: u64) -> Seeds {
    let set = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    Seeds(match set("CADASTRE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..set("CADASTRE_SEEDS").unwrap_or(usual),
    })
}

impl Seeds {
    pub fn run(self, scenario: Scenario) {
        for seed in self.0 {
            println!("seed {seed}");
            scenario.run(seed);
        }
    }
}

impl Scenario {
    fn settings(&self) -> EngineSettings {
        let settings = settings(self.families, self.v4, "fd00::/112");
        if self.mirror { EngineSettings { mode: Mode::Kubernetes, pools: Vec::new(), ..settings } } else { settings }
    }

    /// A schedule of 200 effects or more with 8 nodes or more and a crash in it, then rest.
    pub fn run(&self, seed: u64) {
        let mut simulation = Simulation::new(seed, self.operators, self.settings());
        simulation.broken = self.broken;
        simulation.has_machines = !self.mirror;
        simulation.is_ours_alone = !self.foreign_hands && !self.restore;
        if self.mirror {
            let overlapping =
                [&["10.0.0.0/24"][..], &["10.0.0.0/23"], &["10.0.1.0/24", "10.0.9.0/24"], &["10.0.4.0/22"], &[]];
            let own = (16..32).map(|number| vec![format!("10.0.{number}.0/24").parse().unwrap()]);
            let overlapping = overlapping.iter().map(|set| set.iter().map(|cidr| cidr.parse().unwrap()).collect());
            simulation.pod_cidrs = overlapping.chain(own).collect();
        }
        for node in 0..8 {
            simulation.add_node(&format!("n{node}"), &format!("machine-n{node}"));
        }
        let mut then = None;
        for step in 0..STEPS {
            if step >= self.steps && simulation.effects >= EFFECTS && simulation.crashes > 0 {
                break;
            }
            if self.foreign_hands && step % 50 == 49 {
                simulation.meddle();
            }
            if self.restore && step == self.steps / 2 {
                then = Some(simulation.store.snapshot());
            }
            simulation.step(true);
        }
        assert!(simulation.effects >= EFFECTS && simulation.crashes > 0, "a schedule of too little");
        if let Some(then) = then {
            simulation.go_back(then);
        }
        simulation.settle();
        self.judge(&mut simulation);
    }

    fn judge(&self, simulation: &mut Simulation) {
        if self.mirror {
            return simulation.check_mirrored();
        }
        simulation.check_nothing_lost();
        // Once their pods are gone, contested and surplus blocks are given back.
        simulation.end_pods();
        simulation.settle_for(40);
        simulation.pass(Duration::from_secs(1));
        simulation.check_settled(self.families);
    }
}
