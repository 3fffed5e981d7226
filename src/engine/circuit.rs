//! The circuit breaker of one failure domain.
//!
//! failsafe's state machine holds the three states and is called at transitions only. Everything
//! that takes time is ours, on the time that is passed in: failsafe reads the real clock, so it is
//! given a delay of zero and asked until it permits. Its half-open state admits every call and
//! closes on one success, so counting recovery attempts is ours as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use failsafe::{FailurePolicy, Instrument, StateMachine};
use tokio::time::Instant;

use super::config::CircuitConfig;

/// The three states, in the usual sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CircuitState {
    /// Calls flow.
    Closed,
    /// No calls, until the dwell is over.
    Open,
    /// No calls; our own probes decide whether it closes or opens again.
    HalfOpen,
}

pub(crate) struct Circuit {
    breaker: StateMachine<Trip, Mirror>,
    mirror: Mirror,
    config: CircuitConfig,
    /// Counts transitions, resets and forcings. What started in another episode says nothing now.
    episode: u64,
    /// When the dwell ends; meaningful while open.
    until: Instant,
    /// The dwell of the last opening, without jitter.
    dwell: Duration,
    /// When it last closed; `None` before the first opening.
    closed_at: Option<Instant>,
    recovered: u32,
    /// Opened by an operator: only an operator closes it.
    held: bool,
    /// Opened by what the server said of its own state: a ping is no proof of recovery.
    by_state: bool,
}

/// Opens as soon as it is told of an error: the verdict has been reached elsewhere.
#[derive(Debug)]
struct Trip;

/// failsafe has no getter for its state; it tells an instrument instead.
#[derive(Clone, Debug)]
struct Mirror(Arc<AtomicU8>);

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const HALF_OPEN: u8 = 2;

// === impl Circuit ===

impl Circuit {
    pub(crate) fn new(config: CircuitConfig, now: Instant) -> Self {
        let mirror = Mirror(Arc::new(AtomicU8::new(CLOSED)));
        Self {
            breaker: StateMachine::new(Trip, mirror.clone()),
            mirror,
            dwell: config.grace_period,
            config,
            episode: 1,
            until: now,
            closed_at: None,
            recovered: 0,
            held: false,
            by_state: false,
        }
    }

    pub(crate) fn state(&self) -> CircuitState {
        match self.mirror.0.load(Ordering::Acquire) {
            CLOSED => CircuitState::Closed,
            OPEN => CircuitState::Open,
            _ => CircuitState::HalfOpen,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state() == CircuitState::Closed
    }

    pub(crate) fn episode(&self) -> u64 {
        self.episode
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held
    }

    pub(crate) fn opened_by_state(&self) -> bool {
        self.by_state
    }

    /// The end of the dwell, while open and not held by an operator.
    pub(crate) fn until(&self) -> Option<Instant> {
        (self.state() == CircuitState::Open && !self.held).then_some(self.until)
    }

    /// Opens it, from any state. `jitter` is a factor around 1. No effect while open already.
    pub(crate) fn open(&mut self, now: Instant, by_state: bool, jitter: f64) -> bool {
        if self.state() == CircuitState::Open {
            return false;
        }
        self.dwell = match self.closed_at {
            // Half-open: it has not been closed since the last opening.
            _ if self.state() == CircuitState::HalfOpen => self.grown(),
            Some(closed) if now.duration_since(closed) < self.config.stability_window => {
                self.grown()
            }
            _ => self.config.grace_period,
        };
        self.until = now + self.dwell.mul_f64(jitter);
        self.by_state = by_state;
        self.breaker.on_error();
        self.changed();
        true
    }

    /// The dwell is over, or a proof ends it early: recovery attempts may decide.
    pub(crate) fn half_open(&mut self) -> bool {
        if self.state() != CircuitState::Open {
            return false;
        }
        // failsafe asks the clock to have moved past the end of a delay of zero; it always does.
        while !self.breaker.is_call_permitted() {
            std::hint::spin_loop();
        }
        self.changed();
        true
    }

    /// Counts a healthy attempt in the half-open state; true when it closed the circuit.
    pub(crate) fn recovered(&mut self, now: Instant, enough: u32) -> bool {
        if self.state() != CircuitState::HalfOpen {
            return false;
        }
        self.recovered += 1;
        if self.recovered < enough {
            return false;
        }
        self.breaker.on_success();
        self.close(now);
        true
    }

    /// An operator's word that all is well; growth of the dwell is forgotten.
    pub(crate) fn reset(&mut self, now: Instant) -> bool {
        let changed = !self.is_closed();
        self.breaker.reset();
        self.close(now);
        self.closed_at = None;
        changed
    }

    /// An operator's word that it must stay open until reset.
    pub(crate) fn hold_open(&mut self, now: Instant) -> bool {
        let changed = self.open(now, false, 1.0);
        if !changed {
            self.episode += 1;
        }
        self.held = true;
        changed
    }

    pub(crate) fn recovery_probes(&self) -> u32 {
        self.config.recovery_probes
    }

    /// A member with its own grace period has joined or left the domain.
    pub(crate) fn set_grace_period(&mut self, grace: Duration) {
        self.config.grace_period = grace;
        self.config.max_grace_period = self.config.max_grace_period.max(grace);
    }

    fn grown(&self) -> Duration {
        (self.dwell * 2).min(self.config.max_grace_period)
    }

    fn close(&mut self, now: Instant) {
        self.closed_at = Some(now);
        self.held = false;
        self.by_state = false;
        self.changed();
    }

    fn changed(&mut self) {
        self.episode += 1;
        self.recovered = 0;
    }
}

impl std::fmt::Debug for Circuit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Circuit")
            .field("state", &self.state())
            .field("episode", &self.episode)
            .field("dwell", &self.dwell)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl FailurePolicy for Trip {
    fn record_success(&mut self) {}

    fn mark_dead_on_failure(&mut self) -> Option<Duration> {
        Some(Duration::ZERO)
    }

    fn revived(&mut self) {}
}

impl Instrument for Mirror {
    fn on_call_rejected(&self) {}

    fn on_open(&self) {
        self.0.store(OPEN, Ordering::Release);
    }

    fn on_half_open(&self) {
        self.0.store(HALF_OPEN, Ordering::Release);
    }

    fn on_closed(&self) {
        self.0.store(CLOSED, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circuit() -> (Circuit, Instant) {
        let now = Instant::now();
        (Circuit::new(CircuitConfig::default(), now), now)
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn it_opens_dwells_and_closes_after_two_healthy_attempts() {
        let (mut c, t) = circuit();
        assert!(c.is_closed());
        assert!(c.open(t, false, 1.0));
        assert_eq!(c.until(), Some(t + secs(60)));
        assert!(!c.open(t, false, 1.0), "opening it again changes nothing");
        assert!(c.half_open());
        assert!(!c.recovered(t + secs(60), 2));
        assert!(c.recovered(t + secs(60), 2));
        assert!(c.is_closed());
    }

    #[test]
    fn every_transition_is_a_new_episode() {
        let (mut c, t) = circuit();
        let mut seen = vec![c.episode()];
        c.open(t, false, 1.0);
        seen.push(c.episode());
        c.half_open();
        seen.push(c.episode());
        c.recovered(t, 1);
        seen.push(c.episode());
        c.hold_open(t);
        seen.push(c.episode());
        c.reset(t);
        seen.push(c.episode());
        assert!(seen.windows(2).all(|w| w[0] < w[1]), "{seen:?}");
    }

    #[test]
    fn the_dwell_doubles_until_the_circuit_has_been_stable() {
        let (mut c, mut t) = circuit();
        for expected in [60, 120, 240, 480, 600, 600] {
            assert!(c.open(t, false, 1.0));
            assert_eq!(c.until(), Some(t + secs(expected)));
            t += secs(expected);
            c.half_open();
            assert!(c.recovered(t, 1));
            t += secs(1);
        }
        t += secs(600);
        c.open(t, false, 1.0);
        assert_eq!(c.until(), Some(t + secs(60)));
    }

    #[test]
    fn failing_half_open_grows_the_dwell_too() {
        let (mut c, t) = circuit();
        c.open(t, false, 1.0);
        c.half_open();
        c.open(t + secs(60), false, 1.0);
        assert_eq!(c.until(), Some(t + secs(60 + 120)));
    }

    #[test]
    fn an_operator_holds_it_open_until_reset() {
        let (mut c, t) = circuit();
        c.hold_open(t);
        assert_eq!(c.state(), CircuitState::Open);
        assert_eq!(c.until(), None);
        assert!(c.reset(t));
        assert!(c.is_closed() && !c.is_held());
        assert!(!c.reset(t), "resetting a closed circuit is silent");
    }
}
