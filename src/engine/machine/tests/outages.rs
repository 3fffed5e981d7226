//! Nobody can serve: what is said, what is tried, and when one gives up.

use super::*;

fn down(cast: Cast<'_>) -> Story {
    let mut s = Story::running(cast);
    for (name, _) in cast {
        s.is(name, refuses());
        s.lose(name, Slot::Traffic);
    }
    s.quiet();
    assert_eq!(s.serving(), None);
    s
}

fn said(s: &Story) -> Vec<(u32, bool)> {
    let said = |event: &Event| match event {
        Event::AllUnavailable { attempt, gave_up } => Some((*attempt, *gave_up)),
        _ => None,
    };
    s.events.iter().filter_map(said).collect()
}

fn recovered(s: &Story) -> usize {
    s.count(|e| matches!(e, Event::Recovered { .. }))
}

#[test]
fn an_outage_is_said_every_twelve_seconds_ten_times_and_then_calls_fail_at_once() {
    let mut s = down(&[("a", 2.0), ("b", 1.0)]);
    assert_eq!(said(&s), [(1, false)]);
    assert_eq!(s.machine.status(), Status::Waiting);
    s.wait(ms(11_999));
    assert_eq!(said(&s).len(), 1);
    s.wait(ms(1));
    assert_eq!(said(&s).len(), 2);
    s.wait(ms(107_999));
    assert_eq!(said(&s).len(), 10);
    assert_eq!(s.machine.status(), Status::Waiting);
    s.wait(ms(1));
    assert_eq!(said(&s).last(), Some(&(10, true)));
    assert_eq!(s.machine.status(), Status::GaveUp);
    s.wait(secs(3_600));
    assert_eq!(said(&s).len(), 11, "and then no more");
}

#[test]
fn a_sleep_through_an_outage_is_caught_up_with_in_one_word() {
    let mut s = down(&[("a", 1.0)]);
    s.now += secs(40);
    for _ in 0..5 {
        s.tell(Input::Tick);
    }
    assert_eq!(said(&s), [(1, false), (4, false)]);
}

#[test]
fn a_recovery_is_said_and_starts_the_count_over() {
    let mut s = down(&[("a", 2.0), ("b", 1.0)]);
    s.wait(secs(130));
    s.is("b", HEALTHY);
    s.wait(secs(6));
    assert_eq!(recovered(&s), 1);
    assert_eq!(s.machine.status(), Status::Serving);
    s.events.clear();
    s.is("b", refuses());
    s.lose("b", Slot::Traffic);
    s.quiet();
    assert_eq!(said(&s), [(1, false)]);
}

#[test]
fn a_database_in_its_dwell_serves_again_if_it_answers_and_nothing_else_is_left() {
    let mut s = down(&[("a", 1.0)]);
    s.is("a", HEALTHY);
    s.events.clear();
    s.wait(secs(6));
    assert_eq!(s.serving(), Some("a"));
    let a = |to| ("a".to_owned(), to, Reason::LastResort);
    let expected = [a(CircuitState::HalfOpen), a(CircuitState::Closed)];
    assert_eq!(s.circuit_changes(), expected);
    assert_eq!(recovered(&s), 1);
}

#[test]
fn the_last_resort_is_tried_at_growing_intervals() {
    let mut s = down(&[("a", 1.0)]);
    let before = s.probes;
    s.wait(secs(1));
    let first = s.probes - before;
    assert!((3..=4).contains(&first), "{first} in the first second");
    s.wait(secs(60));
    let before = s.probes;
    s.wait(secs(50));
    let later = s.probes - before;
    assert!((10..=22).contains(&later), "{later} in 50 s");
}

#[test]
fn a_last_resort_that_fails_again_and_again_is_not_flapped_to() {
    let mut s = down(&[("a", 1.0)]);
    s.events.clear();
    let end = s.now + secs(60);
    while s.now < end {
        // It answers a ping, and every command fails.
        s.is("a", HEALTHY);
        s.wait(ms(50));
        if s.serving().is_some() {
            s.is("a", refuses());
            s.lose("a", Slot::Traffic);
            s.quiet();
        }
    }
    let closed = s
        .circuit_changes()
        .iter()
        .filter(|(_, to, _)| *to == CircuitState::Closed)
        .count();
    assert!((10..=20).contains(&closed), "{closed} times in a minute");
}

#[test]
fn a_switch_to_the_last_resort_says_so() {
    let mut s = down(&[("a", 2.0), ("b", 1.0)]);
    s.events.clear();
    s.is("b", HEALTHY);
    s.wait(secs(6));
    s.switched("a", "b", Reason::LastResort);
}

#[test]
fn the_dwell_goes_on_growing_through_last_resorts() {
    let mut s = down(&[("a", 1.0)]);
    s.is("a", HEALTHY);
    s.wait(secs(6));
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.quiet();
    let until = s.view("a").circuit_opens_until.unwrap();
    assert!(until.duration_since(s.now) >= secs(108));
}

#[test]
fn weight_zero_disabled_and_held_are_no_last_resort() {
    let mut s = Story::running(&[("a", 3.0), ("zero", 0.0), ("off", 2.0), ("held", 1.0)]);
    for name in ["a", "zero", "off"] {
        s.is(name, refuses());
        s.lose(name, Slot::Traffic);
    }
    s.order(Verb::SetEnabled(id("off"), false));
    s.order(Verb::ForceOpen(id("held")));
    s.quiet();
    assert_eq!(s.serving(), None);
    for name in ["zero", "off", "held"] {
        s.is(name, HEALTHY);
    }
    s.wait(secs(10));
    for name in ["zero", "off", "held"] {
        assert_eq!(s.circuit(name), CircuitState::Open, "{name}");
    }
    s.wait(secs(600));
    assert_eq!(s.serving(), None);
}

#[test]
fn a_silent_last_resort_is_not_asked_again_before_it_could_answer() {
    let mut s = down(&[("a", 1.0)]);
    s.is("a", Mood::Hangs);
    let mut most = 0;
    for _ in 0..200 {
        s.wait(ms(50));
        most = most.max(s.asked_of("a").len());
    }
    assert!(most <= 2, "{most} at once");
}

#[test]
fn while_somebody_may_still_prove_fit_it_is_a_search_and_no_outage() {
    let mut s = Story::running(&[("a", 2.0), ("b", 1.0)]);
    s.is("a", refuses());
    s.is("b", Mood::Hangs);
    s.lose("a", Slot::Traffic);
    s.wait(secs(2));
    assert_eq!(said(&s), []);
    s.wait(secs(2));
    assert_eq!(said(&s), [(1, false)]);
}

#[test]
fn a_forced_database_ends_an_outage() {
    let mut s = down(&[("a", 2.0), ("b", 1.0)]);
    s.order(Verb::Force(id("b"), None));
    assert_eq!(s.serving(), Some("b"));
    assert_eq!(recovered(&s), 1);
}
