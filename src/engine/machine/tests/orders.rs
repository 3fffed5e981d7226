//! Pins, directives and force: what an operator or a server wants, and what it outranks.

use super::*;

fn trio() -> Story {
    Story::running(&[("a", 3.0), ("b", 2.0), ("c", 1.0)])
}

// --- pins ---

#[test]
fn a_switch_is_proven_first_and_stays() {
    let mut s = trio();
    let ticket = s.order(Verb::SwitchTo(id("c")));
    assert_eq!(s.answer_to(ticket), None);
    assert_eq!(s.active(), Some("a"));
    assert!(s.asked_of("c").iter().any(|p| p.slot == Slot::Traffic));
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    s.wait(secs(3_600));
    s.switched("a", "c", Reason::Manual);
    assert_eq!(s.view("a").obstacles, [Obstacle::Ordered { to: id("c") }]);
}

#[test]
fn unpinned_it_returns_by_weight() {
    let mut s = trio();
    s.order(Verb::SwitchTo(id("c")));
    s.quiet();
    s.events.clear();
    s.order(Verb::Unpin);
    s.quiet();
    s.switched("c", "a", Reason::Fallback);
}

#[test]
fn a_pinned_database_that_fails_loses_its_pin_for_good() {
    let mut s = trio();
    s.order(Verb::SwitchTo(id("c")));
    s.quiet();
    s.events.clear();
    s.is("c", refuses());
    s.lose("c", Slot::Traffic);
    s.quiet();
    s.switched("c", "a", Reason::ConnectionLost);
    s.is("c", HEALTHY);
    s.wait(secs(3_600));
    assert_eq!(s.serving(), Some("a"));
}

#[test]
fn a_pin_is_lost_even_where_there_is_nowhere_else_to_go() {
    let mut s = trio();
    s.order(Verb::SwitchTo(id("c")));
    s.quiet();
    for name in ["a", "b", "c"] {
        s.is(name, refuses());
        s.lose(name, Slot::Traffic);
    }
    s.quiet();
    s.is("c", HEALTHY);
    s.wait(secs(6));
    assert_eq!(s.serving(), Some("c"), "as the last resort");
    s.is("a", HEALTHY);
    s.wait(secs(300));
    assert_eq!(s.serving(), Some("a"));
}

#[test]
fn a_pinned_database_that_stands_by_loses_its_pin_too() {
    let mut s = trio();
    s.order(Verb::SwitchTo(id("c")));
    s.quiet();
    s.is("c", STANDBY);
    s.wait(secs(6));
    assert_eq!(s.serving(), Some("a"));
    s.is("c", HEALTHY);
    s.wait(secs(60));
    assert_eq!(s.serving(), Some("a"));
}

#[test]
fn an_active_database_that_stands_by_is_not_pinned_before_it_serves_again() {
    let mut s = trio();
    s.is("b", refuses());
    s.is("c", refuses());
    s.lose("b", Slot::Traffic);
    s.lose("c", Slot::Traffic);
    s.is("a", STANDBY);
    s.wait(secs(7));
    assert_eq!((s.active(), s.serving()), (Some("a"), None));
    let ticket = s.order(Verb::SwitchTo(id("a")));
    assert_eq!(s.answer_to(ticket), None, "it has to be asked");
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Err(ErrorKind::Unhealthy)));
    s.is("a", HEALTHY);
    let ticket = s.order(Verb::SwitchTo(id("a")));
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    assert_eq!(s.serving(), Some("a"));
}

#[test]
fn a_pinned_database_that_changes_its_role_loses_its_pin() {
    let mut s = trio();
    s.order(Verb::SwitchTo(id("c")));
    s.quiet();
    let cast = |role| {
        let mut members = vec![described(11, "a", 3.0), described(12, "c", 1.0)];
        members[1].role = role;
        members
    };
    let members = cast(Role::Replica);
    s.order(Verb::Topology { epoch: 1, members });
    s.quiet();
    assert_eq!(s.serving(), Some("a"));
    let members = cast(Role::Primary);
    s.order(Verb::Topology { epoch: 2, members });
    s.wait(secs(10));
    assert_eq!(s.serving(), Some("a"));
}

#[test]
fn an_unfit_target_is_refused_and_nothing_changes() {
    let mut s = trio();
    s.is("c", refuses());
    let ticket = s.order(Verb::SwitchTo(id("c")));
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Err(ErrorKind::Unhealthy)));
    let again = s.order(Verb::SwitchTo(id("c")));
    assert_eq!(s.answer_to(again), Some(Err(ErrorKind::Unhealthy)));
    s.order(Verb::SetEnabled(id("b"), false));
    let disabled = s.order(Verb::SwitchTo(id("b")));
    assert_eq!(s.answer_to(disabled), Some(Err(ErrorKind::Unhealthy)));
    let unknown = s.order(Verb::SwitchTo(id("x")));
    assert_eq!(s.answer_to(unknown), Some(Err(ErrorKind::UnknownDatabase)));
    s.stayed();
    assert_eq!(s.serving(), Some("a"));
}

#[test]
fn an_order_that_is_never_answered_by_its_target_is_refused_when_the_time_is_up() {
    let mut s = trio();
    s.is("c", Mood::Hangs);
    let ticket = s.order(Verb::SwitchTo(id("c")));
    s.wait(ms(2_900));
    assert_eq!(s.answer_to(ticket), None);
    s.wait(ms(200));
    assert_eq!(s.answer_to(ticket), Some(Err(ErrorKind::Unhealthy)));
}

#[test]
fn weight_zero_can_be_ordered() {
    let mut s = Story::running(&[("a", 1.0), ("z", 0.0)]);
    let ticket = s.order(Verb::SwitchTo(id("z")));
    s.wait(secs(600));
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    assert_eq!(s.serving(), Some("z"));
}

#[test]
fn a_later_order_overtakes_an_earlier_one_to_another_place_and_joins_one_to_the_same() {
    let mut s = trio();
    let first = s.order(Verb::SwitchTo(id("b")));
    let second = s.order(Verb::SwitchTo(id("c")));
    let third = s.direct("c", 1);
    s.quiet();
    assert_eq!(s.answer_to(first), Some(Err(ErrorKind::Superseded)));
    assert_eq!(s.answer_to(second), Some(Ok(())));
    assert_eq!(s.answer_to(third), Some(Ok(())));
    assert_eq!(s.machine.generation(), 2);
}

#[test]
fn an_order_outranks_the_return_to_a_heavier_database() {
    let mut s = trio();
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.quiet();
    s.is("a", HEALTHY);
    s.order(Verb::Reset(id("a")));
    s.events.clear();
    // The proof for the return is under way.
    let ticket = s.order(Verb::SwitchTo(id("c")));
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    s.switched("b", "c", Reason::Manual);
}

#[test]
fn a_failover_overtakes_an_order() {
    let mut s = trio();
    s.is("c", Mood::Hangs);
    let ticket = s.order(Verb::SwitchTo(id("c")));
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.quiet();
    assert_eq!(s.serving(), Some("b"));
    assert_eq!(s.answer_to(ticket), Some(Err(ErrorKind::Superseded)));
}

// --- directives ---

#[test]
fn a_directive_is_proven_and_followed_and_stands() {
    let mut s = trio();
    let ticket = s.direct("b", 1);
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    s.wait(secs(600));
    s.switched("a", "b", Reason::Directed);
}

#[test]
fn sixty_four_callers_with_the_same_news_cause_one_switch() {
    let mut s = trio();
    let mut tickets: Vec<_> = (0..40).map(|_| s.direct("b", 1)).collect();
    s.quiet();
    tickets.extend((0..24).map(|_| s.direct("b", 1)));
    s.quiet();
    for ticket in tickets {
        assert_eq!(s.answer_to(ticket), Some(Ok(())));
    }
    s.switched("a", "b", Reason::Directed);
}

#[test]
fn old_news_is_refused() {
    let mut s = trio();
    s.direct("b", 1);
    s.quiet();
    let old = s.direct("c", 1);
    assert_eq!(s.answer_to(old), Some(Err(ErrorKind::Superseded)));
    s.quiet();
    assert_eq!(s.serving(), Some("b"));
    let new = s.direct("c", 2);
    s.quiet();
    assert_eq!(s.answer_to(new), Some(Ok(())));
    assert_eq!(s.serving(), Some("c"));
}

#[test]
fn a_contrary_directive_clears_a_pin() {
    let mut s = trio();
    s.order(Verb::SwitchTo(id("c")));
    s.quiet();
    s.events.clear();
    let ticket = s.direct("b", 2);
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    s.wait(secs(600));
    s.switched("c", "b", Reason::Directed);
}

#[test]
fn a_directive_to_one_that_stood_by_is_put_to_the_test() {
    let mut s = trio();
    s.is("b", STANDBY);
    s.wait(secs(6));
    assert_eq!(s.view("b").obstacles, [Obstacle::Standby]);
    let early = s.direct("b", 1);
    s.quiet();
    assert_eq!(s.answer_to(early), Some(Err(ErrorKind::Unhealthy)));
    s.is("b", HEALTHY);
    let ticket = s.direct("b", 1);
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    s.switched("a", "b", Reason::Directed);
}

#[test]
fn a_directive_that_cannot_be_followed_leaves_the_pin_alone() {
    let mut s = trio();
    s.order(Verb::SwitchTo(id("c")));
    s.quiet();
    s.events.clear();
    s.is("b", refuses());
    let ticket = s.direct("b", 2);
    s.wait(secs(600));
    assert_eq!(s.answer_to(ticket), Some(Err(ErrorKind::Unhealthy)));
    s.stayed();
}

// --- force ---

#[test]
fn force_ignores_the_circuit_and_needs_no_proof() {
    let mut s = trio();
    s.is("c", refuses());
    s.lose("c", Slot::Traffic);
    s.quiet();
    assert_eq!(s.circuit("c"), CircuitState::Open);
    let ticket = s.order(Verb::Force(id("c"), None));
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    s.switched("a", "c", Reason::Forced);
    assert_eq!(s.serving(), Some("c"));
    let before = s.probes;
    s.wait(secs(60));
    assert_eq!(s.serving(), Some("c"));
    assert!(
        s.probes - before < 300,
        "{} probes in a minute",
        s.probes - before
    );
}

#[test]
fn force_lasts_for_its_time() {
    let mut s = trio();
    s.order(Verb::Force(id("c"), Some(secs(30))));
    s.wait(ms(29_999));
    assert_eq!(s.serving(), Some("c"));
    s.events.clear();
    s.wait(ms(1));
    s.switched("c", "a", Reason::Fallback);
}

#[test]
fn force_over_an_open_circuit_ends_in_a_failover() {
    let mut s = trio();
    s.order(Verb::ForceOpen(id("c")));
    s.order(Verb::Force(id("c"), Some(secs(30))));
    s.events.clear();
    s.wait(secs(31));
    s.switched("c", "a", Reason::HealthCheck);
}

#[test]
fn force_for_longer_than_time_can_be_told_is_for_ever() {
    let mut s = trio();
    s.order(Verb::Force(id("c"), Some(Duration::MAX)));
    s.wait(secs(86_400));
    assert_eq!(s.serving(), Some("c"));
}

#[test]
fn force_outranks_directives_and_pins() {
    let mut s = trio();
    s.order(Verb::Force(id("c"), None));
    let directed = s.direct("b", 2);
    assert_eq!(s.answer_to(directed), Some(Err(ErrorKind::Superseded)));
    let ordered = s.order(Verb::SwitchTo(id("b")));
    s.quiet();
    assert_eq!(s.answer_to(ordered), Some(Err(ErrorKind::Superseded)));
    assert_eq!(s.serving(), Some("c"));
    s.order(Verb::Unpin);
    s.quiet();
    assert_eq!(s.serving(), Some("a"));
}

#[test]
fn force_is_not_weakened_by_an_order_to_the_same_place() {
    for order in [true, false] {
        let mut s = trio();
        s.is("c", Mood::Hangs);
        let pending = order.then(|| s.order(Verb::SwitchTo(id("c"))));
        s.order(Verb::Force(id("c"), None));
        let later = s.direct("c", 2);
        assert_eq!(s.answer_to(later), Some(Ok(())));
        if let Some(pending) = pending {
            assert_eq!(s.answer_to(pending), Some(Ok(())));
        }
        s.is("c", refuses());
        s.lose("c", Slot::Traffic);
        s.wait(secs(10));
        assert_eq!(s.serving(), Some("c"), "whatever its circuit says");
    }
}

#[test]
fn a_disabled_database_is_not_forced() {
    let mut s = trio();
    s.order(Verb::SetEnabled(id("c"), false));
    let ticket = s.order(Verb::Force(id("c"), None));
    assert_eq!(s.answer_to(ticket), Some(Err(ErrorKind::Unhealthy)));

    s.order(Verb::Force(id("b"), None));
    s.quiet();
    s.order(Verb::SetEnabled(id("b"), false));
    s.quiet();
    assert_eq!(s.serving(), Some("a"), "disabled outranks forced");
}

#[test]
fn a_directive_does_not_survive_the_circuit() {
    let mut s = trio();
    s.direct("b", 1);
    s.quiet();
    s.is("b", refuses());
    s.lose("b", Slot::Traffic);
    s.quiet();
    assert_eq!(s.serving(), Some("a"));
    s.is("b", HEALTHY);
    s.wait(secs(600));
    assert_eq!(s.serving(), Some("a"));
}

#[test]
fn a_planned_switch_leaves_the_calls_where_they_are() {
    let mut s = trio();
    s.effects.clear();
    s.order(Verb::SwitchTo(id("b")));
    s.quiet();
    let drained = |e: &&Effect| matches!(e, Effect::Drain { member, how: Drain::Leave } if *member == s.key("a"));
    assert_eq!(s.effects.iter().filter(drained).count(), 1);
    assert!(!s.aborted("a", Slot::Traffic));
    assert!(
        s.aborted("a", Slot::Probe),
        "a standby needs one connection"
    );
}
