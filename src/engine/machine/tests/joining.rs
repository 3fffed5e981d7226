//! Databases that come and go while others serve.

use super::*;

fn pair() -> Story {
    Story::running(&[("a", 3.0), ("b", 2.0)])
}

fn forgotten(s: &Story, key: MemberKey) -> usize {
    let forget = |e: &&Effect| matches!(e, Effect::Forget { member } if *member == key);
    s.effects.iter().filter(forget).count()
}

// --- coming ---

#[test]
fn an_unverified_database_joins_at_once_and_serves_once_proven() {
    let mut s = pair();
    let ticket = s.add("c", 9.0, false);
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    assert_eq!(s.active(), Some("a"));
    s.quiet();
    s.switched("a", "c", Reason::Fallback);
}

#[test]
fn a_verified_database_joins_when_it_has_answered() {
    let mut s = pair();
    let ticket = s.add("c", 9.0, true);
    assert_eq!(s.answer_to(ticket), None);
    assert_eq!(s.view("c").obstacles, [Obstacle::Joining]);
    assert_eq!(s.events, []);
    s.answer("c");
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    assert!(matches!(s.events[0], Event::Added { .. }), "{:?}", s.events);
    s.quiet();
    s.switched("a", "c", Reason::Fallback);
}

#[test]
fn a_database_that_fails_its_verification_leaves_no_trace() {
    for mood in [refuses(), loads(), STANDBY] {
        let mut s = pair();
        let ticket = s.add("c", 9.0, true);
        let key = s.key("c");
        s.is("c", mood);
        s.quiet();
        assert_eq!(s.answer_to(ticket), Some(Err(ErrorKind::Unhealthy)));
        assert_eq!(s.events, []);
        assert_eq!(s.machine.members().len(), 2);
        assert_eq!(forgotten(&s, key), 1);
    }
}

#[test]
fn a_database_under_verification_is_no_member_yet() {
    let mut s = pair();
    let ticket = s.add("c", 9.0, true);
    for verb in [
        Verb::SetWeight(id("c"), weight(1.0)),
        Verb::SetEnabled(id("c"), false),
        Verb::SwitchTo(id("c")),
        Verb::Force(id("c"), None),
        Verb::ForceOpen(id("c")),
        Verb::Remove(id("c")),
    ] {
        let refused = s.order(verb);
        assert_eq!(s.answer_to(refused), Some(Err(ErrorKind::UnknownDatabase)));
    }
    s.is("c", refuses());
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Err(ErrorKind::Unhealthy)));
    assert_eq!(s.serving(), Some("a"));
    assert_eq!(s.events, []);
}

#[test]
fn a_database_under_verification_is_no_hope_in_an_outage_until_it_has_answered() {
    let mut s = Story::running(&[("a", 1.0)]);
    s.add("c", 9.0, true);
    s.is("c", Mood::Hangs);
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.quiet();
    assert_eq!(s.serving(), None);
    assert_eq!(s.count(|e| matches!(e, Event::AllUnavailable { .. })), 1);
    s.is("c", HEALTHY);
    s.quiet();
    s.switched("a", "c", Reason::ConnectionLost);
}

#[test]
fn a_known_id_cannot_be_added_again() {
    let mut s = pair();
    let ticket = s.add("b", 9.0, false);
    assert_eq!(s.answer_to(ticket), Some(Err(ErrorKind::DuplicateDatabase)));
    assert_eq!(s.machine.members().len(), 2);
    assert_eq!(s.events, []);
}

// --- going ---

#[test]
fn the_active_is_removed_once_its_successor_is_proven() {
    let mut s = pair();
    let key = s.key("a");
    let ticket = s.order(Verb::Remove(id("a")));
    assert_eq!(s.answer_to(ticket), None);
    assert_eq!(s.serving(), Some("a"), "nobody is turned away meanwhile");
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    s.switched("a", "b", Reason::Removed);
    assert_eq!(s.events.last(), Some(&Event::Removed { database: id("a") }));
    assert_eq!(forgotten(&s, key), 1);
    assert_eq!(s.machine.members().len(), 1);
    let stray =
        |e: &Effect| matches!(e, Effect::Abort { member, slot: Slot::Traffic } if *member == key);
    assert!(!s.effects.iter().any(stray), "its calls are seen out");
}

#[test]
fn a_standby_is_removed_at_once_and_never_heard_of_again() {
    let mut s = pair();
    s.is("b", Mood::Hangs);
    s.wait(secs(5));
    let late = s.asked_of("b");
    let key = s.key("b");
    let ticket = s.order(Verb::Remove(id("b")));
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    assert_eq!(forgotten(&s, key), 1);
    s.events.clear();
    for probe in late {
        s.answer_with(probe.id, Verdict::Healthy);
    }
    s.tell(Input::Lost {
        member: key,
        slot: Slot::Traffic,
    });
    s.wait(secs(60));
    assert!(!s.asked.iter().any(|asked| asked.probe.member == key));
    assert_eq!(s.events, []);
}

#[test]
fn nothing_is_asked_of_a_database_that_has_just_left() {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0), ("c", 1.0)]);
    let key = s.key("a");
    s.is("b", Mood::Hangs);
    s.order(Verb::Remove(id("a")));
    s.answer("c");
    s.now += ms(150);
    s.asked.retain(|asked| asked.probe.member != key);
    // Its failing calls would wake a probe, if it were not time to leave it.
    s.fail("a", 1);
    assert_eq!(s.active(), Some("c"));
    assert_eq!(forgotten(&s, key), 1);
    assert!(!s.asked.iter().any(|asked| asked.probe.member == key));
}

#[test]
fn the_last_database_cannot_be_removed() {
    let mut s = pair();
    s.order(Verb::Remove(id("b")));
    let last = s.order(Verb::Remove(id("a")));
    assert_eq!(s.answer_to(last), Some(Err(ErrorKind::LastDatabase)));
    let unknown = s.order(Verb::Remove(id("b")));
    assert_eq!(s.answer_to(unknown), Some(Err(ErrorKind::UnknownDatabase)));
}

#[test]
fn two_removals_that_would_leave_nobody_are_one_too_many() {
    let mut s = pair();
    let first = s.order(Verb::Remove(id("a")));
    let second = s.order(Verb::Remove(id("b")));
    s.quiet();
    assert_eq!(s.answer_to(first), Some(Ok(())));
    assert_eq!(s.answer_to(second), Some(Err(ErrorKind::LastDatabase)));
    assert_eq!(s.serving(), Some("b"));
}

#[test]
fn whoever_asks_twice_for_a_removal_is_answered_twice() {
    let mut s = pair();
    let first = s.order(Verb::Remove(id("a")));
    let second = s.order(Verb::Remove(id("a")));
    s.quiet();
    assert_eq!(s.answer_to(first), Some(Ok(())));
    assert_eq!(s.answer_to(second), Some(Ok(())));
    let removed = |e: &Event| matches!(e, Event::Removed { .. });
    assert_eq!(s.count(removed), 1);
}

#[test]
fn removing_the_only_one_that_serves_is_refused() {
    let mut s = pair();
    s.is("b", refuses());
    s.lose("b", Slot::Traffic);
    s.quiet();
    s.events.clear();
    let ticket = s.order(Verb::Remove(id("a")));
    assert_eq!(s.answer_to(ticket), Some(Err(ErrorKind::Unhealthy)));
    assert_eq!(s.serving(), Some("a"));
    assert_eq!(s.events, []);
}

#[test]
fn a_removal_whose_successor_fails_is_refused_and_nobody_notices() {
    let mut s = pair();
    let ticket = s.order(Verb::Remove(id("a")));
    s.is("b", refuses());
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Err(ErrorKind::Unhealthy)));
    assert_eq!(s.serving(), Some("a"));
    assert_eq!(s.view("a").obstacles, []);
    s.stayed();
    assert_eq!(s.count(|e| matches!(e, Event::AllUnavailable { .. })), 0);
    s.is("b", HEALTHY);
    s.wait(secs(600));
    assert_eq!(s.serving(), Some("a"));
}

#[test]
fn a_removal_waits_for_a_successor_that_is_being_reconnected() {
    let mut s = pair();
    for _ in 0..3 {
        s.lose("b", Slot::Traffic);
        s.quiet();
    }
    let ticket = s.order(Verb::Remove(id("a")));
    assert_eq!(s.answer_to(ticket), None);
    s.wait(ms(100));
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    assert_eq!(s.serving(), Some("b"));
}

#[test]
fn an_active_that_cannot_serve_is_removed_at_once() {
    let mut s = pair();
    s.order(Verb::SetEnabled(id("b"), false));
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.quiet();
    assert_eq!(s.serving(), None);
    s.events.clear();
    let ticket = s.order(Verb::Remove(id("a")));
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    s.wait(secs(20));
    s.order(Verb::SetEnabled(id("b"), true));
    s.quiet();
    s.switched("a", "b", Reason::Removed);
}

#[test]
fn a_database_that_leaves_and_comes_back_is_another_one() {
    let mut s = pair();
    s.is("b", refuses());
    s.lose("b", Slot::Traffic);
    s.quiet();
    s.order(Verb::Remove(id("b")));
    s.add("b", 9.0, false);
    s.quiet();
    assert_eq!(s.circuit("b"), CircuitState::Closed);
    assert_eq!(s.serving(), Some("b"));
}

#[test]
fn an_order_to_a_database_that_is_removed_meanwhile_is_refused() {
    let mut s = pair();
    let ordered = s.order(Verb::SwitchTo(id("b")));
    s.add("c", 1.0, false);
    s.order(Verb::Remove(id("b")));
    assert_eq!(s.answer_to(ordered), Some(Err(ErrorKind::Unhealthy)));
}

#[test]
fn a_database_on_its_way_out_is_neither_forced_nor_switched_to() {
    let mut s = pair();
    s.is("b", Mood::Hangs);
    s.order(Verb::Remove(id("a")));
    for verb in [Verb::Force(id("a"), None), Verb::SwitchTo(id("a"))] {
        let ticket = s.order(verb);
        assert_eq!(s.answer_to(ticket), Some(Err(ErrorKind::Unhealthy)));
    }
}

// --- resting ---

#[test]
fn a_disabled_active_serves_until_its_successor_is_proven() {
    let mut s = pair();
    let ticket = s.order(Verb::SetEnabled(id("a"), false));
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    assert_eq!(s.serving(), Some("a"));
    s.quiet();
    s.switched("a", "b", Reason::Disabled);
    s.wait(secs(600));
    assert_eq!(s.serving(), Some("b"));
    s.events.clear();
    s.order(Verb::SetEnabled(id("a"), true));
    s.quiet();
    s.switched("b", "a", Reason::Fallback);
}

#[test]
fn a_disabled_active_that_is_enabled_in_time_goes_on() {
    let mut s = pair();
    s.order(Verb::SetEnabled(id("a"), false));
    s.order(Verb::SetEnabled(id("a"), true));
    s.quiet();
    s.stayed();
    assert_eq!(s.serving(), Some("a"));
}

// --- topologies ---

fn topology(s: &mut Story, epoch: u64, cast: Cast<'_>) -> Ticket {
    let members = cast.iter().map(|&(name, w)| s.describe(name, w, |_| {}));
    let members = members.collect();
    s.order(Verb::Topology { epoch, members })
}

/// Members that a topology names again keep the key they have.
fn rename(s: &mut Story, kept: &[(&'static str, u64)]) {
    for (name, key) in kept {
        s.names.retain(|k, n| n != name || k.0 == *key);
    }
}

#[test]
fn a_topology_replaces_the_set_in_one_step_and_keeps_who_stays() {
    let mut s = pair();
    s.is("b", refuses());
    s.lose("b", Slot::Traffic);
    s.quiet();
    s.events.clear();
    let ticket = topology(&mut s, 1, &[("b", 5.0), ("c", 4.0)]);
    rename(&mut s, &[("b", 2)]);
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    assert_eq!(
        s.serving(),
        None,
        "what is no longer a member is not served from"
    );
    s.quiet();
    s.switched("a", "c", Reason::Removed);
    assert_eq!(
        s.circuit("b"),
        CircuitState::Open,
        "its circuit is still its own"
    );
    assert_eq!(s.view("b").weight, weight(5.0));
}

#[test]
fn an_older_topology_is_refused() {
    let mut s = pair();
    topology(&mut s, 5, &[("a", 3.0), ("b", 2.0)]);
    rename(&mut s, &[("a", 1), ("b", 2)]);
    for epoch in [4, 5] {
        let old = topology(&mut s, epoch, &[("c", 1.0)]);
        assert_eq!(s.answer_to(old), Some(Err(ErrorKind::Superseded)));
    }
    assert_eq!(s.machine.members().len(), 2);
    assert_eq!(s.events, []);
}

#[test]
fn a_topology_that_cannot_be_is_refused_whole() {
    let mut s = pair();
    let empty = topology(&mut s, 1, &[]);
    assert_eq!(s.answer_to(empty), Some(Err(ErrorKind::LastDatabase)));
    let twice = topology(&mut s, 2, &[("c", 1.0), ("c", 2.0)]);
    assert_eq!(s.answer_to(twice), Some(Err(ErrorKind::DuplicateDatabase)));
    assert_eq!(s.machine.members().len(), 2);
    assert_eq!(s.events, []);
    let good = topology(&mut s, 1, &[("a", 1.0)]);
    assert_eq!(s.answer_to(good), Some(Ok(())), "epoch 1 is still to come");
}

#[test]
fn a_topology_settles_what_was_pending_about_its_members() {
    let mut s = pair();
    let joining = s.add("c", 1.0, true);
    let unwanted = s.add("d", 1.0, true);
    let leaving = s.order(Verb::Remove(id("a")));
    topology(&mut s, 1, &[("b", 1.0), ("c", 2.0)]);
    rename(&mut s, &[("b", 2), ("c", 3)]);
    assert_eq!(s.answer_to(joining), Some(Ok(())));
    assert_eq!(s.answer_to(unwanted), Some(Err(ErrorKind::Superseded)));
    assert_eq!(s.answer_to(leaving), Some(Ok(())));
    let d = id("d");
    assert_eq!(
        s.count(|e| *e
            == Event::Removed {
                database: d.clone()
            }),
        0
    );
    s.quiet();
    assert_eq!(s.serving(), Some("c"));
}

#[test]
fn a_topology_that_names_a_database_overtakes_its_removal() {
    let mut s = pair();
    let leaving = s.order(Verb::Remove(id("a")));
    s.order(Verb::ForceOpen(id("a")));
    topology(&mut s, 1, &[("a", 1.0)]);
    rename(&mut s, &[("a", 1)]);
    s.quiet();
    assert_eq!(s.answer_to(leaving), Some(Err(ErrorKind::Superseded)));
    assert_eq!(s.machine.members().len(), 1, "the last one is not removed");
}

#[test]
fn a_role_that_changes_moves_the_client() {
    let mut s = pair();
    let mut members = vec![described(11, "a", 3.0), described(12, "b", 2.0)];
    members[0].role = Role::Replica;
    s.order(Verb::Topology { epoch: 1, members });
    s.quiet();
    s.switched("a", "b", Reason::HealthCheck);
}
