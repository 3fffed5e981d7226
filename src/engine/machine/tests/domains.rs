//! Databases that share a failure domain.

use super::*;

/// Blue and green share a domain; away has its own.
fn colours() -> Story {
    let mut s = Story::sharing(&[("blue", 3.0), ("green", 2.0)]);
    s.seed("away", 1.0, |_| {});
    s.started()
}

#[test]
fn what_shows_one_down_shows_all_of_its_domain_down() {
    let mut s = colours();
    s.is("blue", refuses());
    s.lose("blue", Slot::Traffic);
    s.quiet();
    s.switched("blue", "away", Reason::ConnectionLost);
    assert_eq!(s.circuit("green"), CircuitState::Open);
    assert_eq!(s.circuit_changes().len(), 1, "one circuit, one event");
}

#[test]
fn a_planned_switch_within_a_domain_is_like_any_other() {
    let mut s = colours();
    let ticket = s.direct("green", 1);
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    s.switched("blue", "green", Reason::Directed);
}

#[test]
fn standing_by_is_a_matter_of_the_database_and_not_of_its_domain() {
    let mut s = colours();
    s.is("blue", STANDBY);
    s.wait(secs(6));
    s.switched("blue", "green", Reason::Standby);
    assert_eq!(s.circuit("blue"), CircuitState::Closed);
}

#[test]
fn a_verdict_on_a_domain_is_not_fled_from_into_the_same_domain() {
    let mut s = colours();
    s.evidence("shared", |e| e.at_once = Some("READONLY"));
    s.quiet();
    s.switched("blue", "away", Reason::ServerState);

    let mut s = Story::sharing(&[("blue", 3.0), ("green", 2.0)]).started();
    s.evidence("shared", |e| e.at_once = Some("READONLY"));
    s.wait(secs(1));
    assert_eq!(s.serving(), Some("blue"));
    assert_eq!(s.circuit("blue"), CircuitState::Closed);
    assert_eq!(s.count(|e| matches!(e, Event::NowhereToGo { .. })), 1);
}

#[test]
fn a_silent_domain_is_not_fled_from_into_the_same_domain() {
    let mut s = Story::sharing(&[("blue", 3.0), ("green", 2.0)]).started();
    s.is("blue", Mood::Hangs);
    s.stall("blue", ms(200));
    s.wait(secs(1));
    s.stayed();
    assert_eq!(s.serving(), Some("blue"));
}

#[test]
fn the_state_of_a_standby_does_not_open_the_circuit_of_the_active_beside_it() {
    let mut s = colours();
    s.is("green", loads());
    s.wait(secs(20));
    s.stayed();
    assert_eq!(s.circuit("blue"), CircuitState::Closed);
}

#[test]
fn a_switch_to_a_database_in_a_bad_state_is_refused_though_its_circuit_is_closed() {
    let mut s = colours();
    s.is("green", loads());
    let ticket = s.order(Verb::SwitchTo(id("green")));
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Err(ErrorKind::Unhealthy)));
    s.stayed();
}

#[test]
fn a_heavier_neighbour_in_a_bad_state_is_returned_to_once_that_is_over() {
    let mut s = Story::sharing(&[("blue", 3.0), ("green", 2.0)]);
    let (blue, loading) = (MemberKey(1), loads());
    s.moods.insert(blue, loading);
    s.start();
    s.quiet();
    assert_eq!(s.serving(), Some("green"));
    let before = s.probes;
    s.wait(secs(60));
    assert!(
        s.probes - before < 100,
        "{} probes in a minute",
        s.probes - before
    );
    s.is("blue", HEALTHY);
    s.wait(secs(11));
    assert_eq!(s.serving(), Some("blue"));
}

#[test]
fn a_start_with_one_of_two_neighbours_down_finds_the_other() {
    for first in ["blue", "green"] {
        let mut s = Story::sharing(&[("blue", 3.0), ("green", 2.0)]);
        s.start();
        s.is("green", refuses());
        s.answer(first);
        s.wait(secs(1));
        assert_eq!(s.serving(), Some("blue"), "{first} answers first");
        assert_eq!(s.started_with(), Some(Ok(())));
    }
}

#[test]
fn a_bad_database_that_wants_to_join_does_no_harm_to_its_neighbours() {
    let mut s = colours();
    let member = s.describe("red", 9.0, |m| m.domain = "shared".into());
    let ticket = s.order(Verb::Add {
        member,
        verify: true,
    });
    s.is("red", refuses());
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Err(ErrorKind::Unhealthy)));
    assert_eq!(s.serving(), Some("blue"));
    assert_eq!(s.events, []);
}

#[test]
fn a_domain_outlives_all_but_its_last_member() {
    let mut s = colours();
    s.order(Verb::ForceOpen(id("green")));
    s.quiet();
    s.order(Verb::Remove(id("green")));
    assert_eq!(s.circuit("blue"), CircuitState::Open);
    s.order(Verb::Remove(id("blue")));
    let member = s.describe("blue", 9.0, |m| m.domain = "shared".into());
    s.order(Verb::Add {
        member,
        verify: false,
    });
    assert_eq!(s.circuit("blue"), CircuitState::Closed);
}

#[test]
fn a_reset_acts_on_the_whole_domain() {
    let mut s = colours();
    s.order(Verb::ForceOpen(id("blue")));
    s.quiet();
    s.events.clear();
    s.order(Verb::Reset(id("green")));
    s.quiet();
    s.switched("away", "blue", Reason::Fallback);
    assert_eq!(s.circuit_changes().len(), 1);
}
