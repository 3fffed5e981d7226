//! How long a bad database stays out, and who lets it back in.

use super::*;

/// `a` has just failed and `b` serves.
fn after_failover() -> Story {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0)]);
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.quiet();
    s.switched("a", "b", Reason::ConnectionLost);
    s.events.clear();
    s
}

fn dwell(s: &Story, name: &str) -> Duration {
    let until = s.view(name).circuit_opens_until.expect("an open circuit");
    until.duration_since(s.now)
}

#[test]
fn the_dwell_lasts_a_minute_give_or_take_a_tenth() {
    let dwell = dwell(&after_failover(), "a");
    assert!(secs(54) <= dwell && dwell <= secs(66), "{dwell:?}");
}

#[test]
fn green_probes_do_not_shorten_the_dwell() {
    let mut s = after_failover();
    s.is("a", HEALTHY);
    let dwell = dwell(&s, "a");
    s.wait(dwell - ms(1));
    assert_eq!(s.view("a").verdict, Some(Verdict::Healthy));
    assert_eq!(s.circuit("a"), CircuitState::Open);
    assert_eq!(s.circuit_changes(), []);
}

#[test]
fn two_healthy_attempts_after_the_dwell_close_the_circuit() {
    let mut s = after_failover();
    s.is("a", HEALTHY);
    s.now += dwell(&s, "a");
    s.asked.clear();
    s.tell(Input::Tick);
    assert_eq!(s.circuit("a"), CircuitState::HalfOpen);
    assert_eq!(s.view("a").obstacles, [Obstacle::Recovering]);
    let first = s.asked_of("a");
    assert_eq!(first.len(), 1, "one attempt at a time");
    s.answer("a");
    assert_eq!(s.circuit("a"), CircuitState::HalfOpen);
    s.answer("a");
    assert_eq!(s.circuit("a"), CircuitState::Closed);
    let a = |to| ("a".to_owned(), to, Reason::Recovery);
    let expected = [a(CircuitState::HalfOpen), a(CircuitState::Closed)];
    assert_eq!(s.circuit_changes(), expected);
}

#[test]
fn one_bad_attempt_after_the_dwell_opens_it_again_for_twice_as_long() {
    let mut s = after_failover();
    let first = dwell(&s, "a");
    s.wait(first);
    assert_eq!(s.circuit("a"), CircuitState::Open);
    let second = dwell(&s, "a");
    assert!(secs(108) <= second && second <= secs(132), "{second:?}");
}

#[test]
fn a_silent_database_stays_half_open_until_its_attempt_has_ended() {
    let mut s = after_failover();
    s.is("a", Mood::Hangs);
    s.wait(dwell(&s, "a") + ms(2_900));
    assert_eq!(s.circuit("a"), CircuitState::HalfOpen);
    assert_eq!(s.asked_of("a").len(), 1);
    s.wait(ms(200));
    assert_eq!(s.circuit("a"), CircuitState::Open);
}

#[test]
fn the_dwell_grows_with_every_relapse_up_to_ten_minutes_and_starts_over_after_ten_good_ones() {
    let mut s = after_failover();
    for expected in [60, 120, 240, 480, 600, 600] {
        let dwell = dwell(&s, "a");
        let (least, most) = (secs(expected * 9 / 10), secs(expected * 11 / 10));
        assert!(least <= dwell && dwell <= most, "{expected}: {dwell:?}");
        s.is("a", HEALTHY);
        s.wait(dwell + secs(1));
        assert_eq!(s.serving(), Some("a"));
        s.is("a", refuses());
        s.lose("a", Slot::Traffic);
        s.quiet();
        assert_eq!(s.serving(), Some("b"));
    }
    s.is("a", HEALTHY);
    s.wait(dwell(&s, "a") + secs(1));
    s.wait(secs(601));
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.quiet();
    assert!(dwell(&s, "a") <= secs(66));
}

#[test]
fn a_grace_period_of_its_own_counts_for_a_database() {
    let mut s = Story::cast(config(), &[("b", 1.0)]);
    s.seed("a", 2.0, |m| m.grace_period = Some(secs(5)));
    let mut s = s.started();
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.quiet();
    assert!(dwell(&s, "a") <= ms(5_500));
}

#[test]
fn an_operator_holds_a_circuit_open_until_it_is_reset() {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0)]);
    s.order(Verb::ForceOpen(id("a")));
    s.quiet();
    s.switched("a", "b", Reason::Manual);
    assert_eq!(s.circuit_changes().len(), 1);
    s.order(Verb::ForceOpen(id("a")));
    s.wait(secs(7_200));
    assert_eq!(s.circuit_changes().len(), 1, "said once");
    assert_eq!(
        s.view("a").obstacles,
        [Obstacle::CircuitOpen { left: None }]
    );

    s.events.clear();
    s.order(Verb::Reset(id("a")));
    assert_eq!(s.circuit("a"), CircuitState::Closed);
    assert_eq!(s.active(), Some("b"), "a reset is no proof");
    s.quiet();
    s.switched("b", "a", Reason::Fallback);
}

#[test]
fn a_circuit_in_its_dwell_can_be_held_and_is_then_not_a_last_resort() {
    let mut s = Story::running(&[("a", 1.0)]);
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.quiet();
    s.order(Verb::ForceOpen(id("a")));
    s.is("a", HEALTHY);
    s.wait(secs(600));
    assert_eq!(s.serving(), None);
    s.order(Verb::Reset(id("a")));
    s.quiet();
    assert_eq!(s.serving(), Some("a"));
}

#[test]
fn an_answer_from_another_episode_changes_nothing() {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0)]);
    s.wait(secs(2));
    s.is("b", Mood::Hangs);
    s.wait(secs(3));
    let late = s.asked_of("b");
    assert!(!late.is_empty());
    s.order(Verb::ForceOpen(id("b")));
    s.order(Verb::Reset(id("b")));
    s.events.clear();
    let before = s.view("b");
    for probe in &late {
        for verdict in [
            Verdict::Standby,
            Verdict::Unhealthy(Fault::new(FaultKind::Lost, "late")),
        ] {
            s.answer_with(probe.id, verdict);
        }
    }
    assert_eq!(s.events, []);
    let after = s.view("b");
    assert_eq!(after.circuit, CircuitState::Closed);
    assert_eq!(after.verdict, before.verdict);
    assert_eq!(after.obstacles, before.obstacles);
}

#[test]
fn a_late_green_probe_does_not_undo_an_operators_word() {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0)]);
    s.is("b", Mood::Hangs);
    s.wait(secs(5));
    let late = s.asked_of("b");
    s.order(Verb::ForceOpen(id("b")));
    for probe in late {
        s.answer_with(probe.id, Verdict::Healthy);
    }
    assert_eq!(s.circuit("b"), CircuitState::Open);
}

#[test]
fn a_standby_that_answers_recovers_without_being_asked_in_a_tight_loop() {
    let mut s = after_failover();
    for mood in [STANDBY, SUSPENDED] {
        s.is("a", mood);
        s.wait(secs(80));
        assert_eq!(s.circuit("a"), CircuitState::Closed);
        assert_eq!(s.serving(), Some("b"));
        s.order(Verb::ForceOpen(id("a")));
        s.order(Verb::Reset(id("a")));
    }
    s.is("a", HEALTHY);
    s.wait(secs(11));
    assert_eq!(s.serving(), Some("a"));
}

#[test]
fn a_database_that_refused_by_its_state_must_show_more_than_a_ping_to_recover() {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0)]);
    s.evidence("a", |e| e.at_once = Some("READONLY"));
    s.quiet();
    s.switched("a", "b", Reason::ServerState);
    s.now += dwell(&s, "a");
    s.asked.clear();
    s.tell(Input::Tick);
    let asked = s.asked_of("a");
    assert!(asked.iter().any(|p| p.depth == Depth::Serving), "{asked:?}");
    assert!(!asked.iter().any(|p| p.depth == Depth::Alive));
}
