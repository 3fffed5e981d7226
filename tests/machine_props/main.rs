//! Random outages against the machine: whatever happens in whatever order, the promises hold.
//!
//! `steps` says what can happen, `world` lets it happen, and `model` watches from outside: it knows
//! nothing of how the machine decides and recomputes from scratch, after every input, what must hold.
//! A failure is shrunk to the few steps that it needs and belongs into a story beside the machine.
//!
//! `PROPTEST_CASES` sets the number of cases.

mod model;
mod rules;
mod steps;
mod world;

use proptest::prelude::*;

use steps::{Setup, Step, faults, faults_and_orders, setup};
use world::World;

/// `PROPTEST_CASES`, if it is set, is what the default holds already.
fn cases(usual: u32) -> ProptestConfig {
    let cases = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default().cases,
        None => usual,
    };
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 100_000,
        ..ProptestConfig::default()
    }
}

fn live_through(mut world: World, steps: &[Step]) -> World {
    for step in steps {
        world.happen(step);
    }
    world.heal();
    world
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn whatever_fails_the_promises_hold_and_afterwards_the_heaviest_serves(
        setup in setup(),
        steps in faults(),
    ) {
        live_through(World::new(&setup), &steps);
    }

    #[test]
    fn whatever_fails_and_whatever_is_ordered_the_promises_hold_and_afterwards_the_heaviest_serves(
        setup in setup(),
        steps in faults_and_orders(),
    ) {
        live_through(World::new(&setup), &steps);
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn the_same_seed_and_the_same_inputs_give_the_same_effects(
        setup in setup(),
        steps in faults_and_orders(),
    ) {
        let record = |setup: &Setup| live_through(World::new(setup).recorded(), &steps).record();
        prop_assert_eq!(record(&setup), record(&setup));
    }
}
