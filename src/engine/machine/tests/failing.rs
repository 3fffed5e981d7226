//! What is a failure of the active database, and what is not.

use super::*;

fn pair() -> Story {
    Story::running(&[("a", 3.0), ("b", 2.0)])
}

fn judged(s: &Story) -> Vec<(u64, bool)> {
    let judged = |effect: &Effect| match effect {
        Effect::Judged {
            refusals, cornered, ..
        } => Some((*refusals, *cornered)),
        _ => None,
    };
    s.effects.iter().filter_map(judged).collect()
}

fn cornered(s: &Story) -> usize {
    s.count(|e| matches!(e, Event::NowhereToGo { .. }))
}

// --- connections ---

#[test]
fn a_lost_connection_is_made_anew_and_that_is_all() {
    let mut s = pair();
    s.lose("a", Slot::Traffic);
    let again = s.asked_of("a");
    assert!(again.iter().any(|p| p.slot == Slot::Traffic && !p.round));
    s.wait(secs(60));
    assert_eq!(s.serving(), Some("a"));
    s.stayed();
    assert_eq!(s.circuit_changes(), []);
    assert_eq!(
        s.count(|e| matches!(e, Event::ConnectionReplaced { .. })),
        1
    );
}

#[test]
fn a_refused_reconnect_fails_over_with_the_proof_that_is_at_hand() {
    let mut s = pair();
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    // The standby is asked at the first sign, not at the last.
    assert!(s.asked_of("b").iter().any(|p| p.slot == Slot::Traffic));
    s.answer("b");
    s.stayed();
    s.answer("a");
    s.switched("a", "b", Reason::ConnectionLost);
    assert_eq!(s.circuit("a"), CircuitState::Open);
    assert!(
        s.aborted("a", Slot::Traffic),
        "its calls are released at once"
    );
}

#[test]
fn nobody_is_switched_to_without_a_proof_from_after_the_first_sign() {
    let mut s = pair();
    s.is("a", refuses());
    s.is("b", Mood::Hangs);
    s.lose("a", Slot::Traffic);
    s.answer("a");
    assert_eq!(s.circuit("a"), CircuitState::Open);
    s.stayed();
    s.is("b", HEALTHY);
    s.answer("b");
    s.switched("a", "b", Reason::ConnectionLost);
}

#[test]
fn a_standby_that_fails_to_prove_itself_is_unhealthy_whatever_it_was_wanted_for() {
    let mut s = pair();
    s.is("a", Mood::Hangs);
    s.is("b", refuses());
    s.stall("a", ms(200));
    s.answer("b");
    let b = ("b".to_owned(), CircuitState::Open, Reason::HealthCheck);
    assert_eq!(s.circuit_changes(), [b]);
}

#[test]
fn a_proof_does_not_outlive_the_connection_it_came_over() {
    let mut s = pair();
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    let proof = s.asked_of("b").pop().unwrap();
    s.lose("b", Slot::Traffic);
    // What it had said before it was lost arrives only now.
    s.answer_over(proof.id, Verdict::Healthy, false);
    assert!(!s.view("b").connected);
    s.answer("a");
    s.stayed();
    s.wait(ms(20));
    s.switched("a", "b", Reason::ConnectionLost);
    assert!(s.view("b").connected);
}

#[test]
fn connections_that_end_as_soon_as_they_are_made_are_remade_ever_more_slowly() {
    let mut s = Story::running(&[("a", 1.0)]);
    let before = s.probes;
    let end = s.now + secs(10);
    while s.now < end {
        s.lose("a", Slot::Traffic);
        s.lose("a", Slot::Probe);
        s.wait(ms(5));
    }
    assert!(
        s.probes - before < 500,
        "{} probes in 10 s",
        s.probes - before
    );
}

#[test]
fn a_candidate_that_lets_go_of_every_connection_is_not_asked_in_a_tight_loop() {
    let mut s = pair();
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.answer("a");
    let before = s.probes;
    for _ in 0..15 {
        s.lose("b", Slot::Traffic);
        for probe in s.asked_of("b") {
            s.asked.retain(|asked| asked.probe.id != probe.id);
            s.answer_over(probe.id, Verdict::Healthy, false);
        }
    }
    let asked = s.probes - before;
    assert!(asked < 5, "{asked} probes in no time");
    s.stayed();
    s.wait(secs(3));
    s.switched("a", "b", Reason::ConnectionLost);
}

#[test]
fn a_reset_forgets_the_losses_that_slowed_the_reconnecting_down() {
    let mut s = pair();
    for _ in 0..5 {
        s.is("a", refuses());
        s.lose("a", Slot::Traffic);
        // No time passes.
        s.quiet();
        assert_eq!(s.serving(), Some("b"));
        s.is("a", HEALTHY);
        s.order(Verb::Reset(id("a")));
        s.wait(ms(50));
        assert_eq!(s.serving(), Some("a"));
    }
}

#[test]
fn a_hanging_reconnect_is_believed_when_its_time_is_up() {
    let mut s = pair();
    s.is("a", Mood::Hangs);
    s.lose("a", Slot::Traffic);
    s.wait(ms(2_990));
    s.stayed();
    s.wait(ms(20));
    s.switched("a", "b", Reason::ConnectionLost);
}

#[test]
fn a_lost_probe_connection_asks_again_and_means_nothing_by_itself() {
    let mut s = pair();
    s.lose("a", Slot::Probe);
    s.quiet();
    assert_eq!(s.events, []);
    s.is("a", refuses());
    s.wait(secs(1));
    s.lose("a", Slot::Probe);
    s.quiet();
    s.switched("a", "b", Reason::ConnectionLost);
}

#[test]
fn an_idle_connection_that_does_not_answer_is_replaced_if_its_database_does() {
    let mut s = pair();
    let idle = next_idle_ping(&mut s);
    let silent = Verdict::Unhealthy(Fault::new(FaultKind::Silent, "no answer"));
    s.quiet_but(idle);
    s.now += ms(500);
    s.answer_with(idle, silent);
    assert!(s.aborted("a", Slot::Traffic));
    s.quiet();
    s.stayed();
    assert_eq!(s.circuit_changes(), []);
    assert_eq!(
        s.count(|e| matches!(e, Event::ConnectionReplaced { .. })),
        1
    );
    assert!(s.view("a").connected);
}

#[test]
fn an_idle_connection_whose_database_is_silent_too_is_a_hang_and_not_replaced() {
    let mut s = pair();
    let idle = next_idle_ping(&mut s);
    s.is("a", Mood::Hangs);
    for asked in &mut s.asked {
        asked.probe.timeout = secs(3);
    }
    s.wait(ms(500));
    let silent = Verdict::Unhealthy(Fault::new(FaultKind::Silent, "no answer"));
    s.answer_with(idle, silent);
    assert_eq!(
        s.count(|e| matches!(e, Event::ConnectionReplaced { .. })),
        0
    );
    s.wait(ms(200));
    s.switched("a", "b", Reason::Stalled);
}

/// Waits for the ping over the callers' connection, which is then owed.
fn next_idle_ping(s: &mut Story) -> ProbeId {
    for _ in 0..10 {
        s.now = s.machine.deadline().unwrap();
        s.tell(Input::Tick);
        let ping = |p: &&Probe| p.slot == Slot::Traffic && !p.round;
        if let Some(ping) = s.asked_of("a").iter().find(ping) {
            return ping.id;
        }
        s.quiet();
    }
    panic!("an idle connection is not looked after");
}

// --- what the server says of itself ---

#[test]
fn a_state_verdict_leaves_only_for_a_proven_database() {
    let mut s = pair();
    s.evidence("a", |e| {
        e.at_once = Some("LOADING");
        e.refusals = 1;
    });
    assert_eq!(s.circuit("a"), CircuitState::Closed, "nobody is proven yet");
    assert_eq!(judged(&s), [], "its callers wait for the decision");
    s.quiet();
    s.switched("a", "b", Reason::ServerState);
    assert_eq!(s.circuit("a"), CircuitState::Open);
    assert_eq!(judged(&s), [(1, false)]);
}

#[test]
fn a_lone_database_that_refuses_stays_and_that_is_said_once() {
    let mut s = Story::running(&[("a", 1.0)]);
    for refusals in 1..=20 {
        s.evidence("a", |e| {
            e.at_once = Some("READONLY");
            e.refusals = refusals;
        });
        s.wait(ms(100));
    }
    assert_eq!(s.serving(), Some("a"));
    assert_eq!(s.circuit("a"), CircuitState::Closed);
    assert_eq!(cornered(&s), 1);
    assert_eq!(judged(&s).last(), Some(&(20, true)));
}

#[test]
fn a_verdict_that_is_not_repeated_is_forgotten() {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0)]);
    s.order(Verb::ForceOpen(id("b")));
    s.evidence("a", |e| e.at_once = Some("READONLY"));
    s.wait(secs(11));
    assert_eq!(cornered(&s), 1);
    s.order(Verb::Reset(id("b")));
    s.wait(secs(60));
    s.stayed();
    s.order(Verb::ForceOpen(id("b")));
    s.evidence("a", |e| e.at_once = Some("READONLY"));
    assert_eq!(cornered(&s), 2, "another time is another event");
}

#[test]
fn cornered_it_leaves_as_soon_as_another_one_is_fit() {
    let mut s = pair();
    s.order(Verb::ForceOpen(id("b")));
    s.evidence("a", |e| e.at_once = Some("READONLY"));
    s.wait(secs(1));
    s.stayed();
    s.order(Verb::Reset(id("b")));
    s.quiet();
    s.switched("a", "b", Reason::ServerState);
}

#[test]
fn three_refusals_within_a_second_are_a_verdict_unless_a_write_succeeds_between() {
    let oom = |e: &mut Evidence| {
        e.repeated = 1;
        e.repeated_code = Some("OOM");
    };
    let mut s = pair();
    for _ in 0..2 {
        s.evidence("a", oom);
        s.wait(ms(100));
    }
    s.evidence("a", |e| e.wrote = true);
    for _ in 0..2 {
        s.evidence("a", oom);
        s.wait(ms(600));
    }
    s.evidence("a", oom);
    s.quiet();
    s.stayed();
    s.wait(ms(100));
    s.evidence("a", oom);
    s.evidence("a", oom);
    s.quiet();
    s.switched("a", "b", Reason::ServerState);
}

#[test]
fn a_probe_that_is_told_of_a_bad_state_is_a_verdict_too() {
    let mut s = pair();
    s.is("a", loads());
    s.wait(secs(6));
    s.switched("a", "b", Reason::ServerState);
}

#[test]
fn a_lone_database_that_loads_is_waited_for_without_hammering_it() {
    let mut s = Story::running(&[("a", 1.0)]);
    s.is("a", loads());
    s.lose("a", Slot::Traffic);
    let before = s.probes;
    s.wait(secs(60));
    assert!(
        s.probes - before < 200,
        "{} probes in a minute",
        s.probes - before
    );
    assert_eq!(s.circuit("a"), CircuitState::Closed);
    s.is("a", HEALTHY);
    s.wait(secs(2));
    assert!(s.view("a").connected);
    assert_eq!(s.serving(), Some("a"));
}

// --- calls ---

#[test]
fn too_many_failed_calls_are_a_verdict() {
    let mut s = pair();
    s.fail("a", 19);
    s.quiet();
    s.stayed();
    s.fail("a", 1);
    s.quiet();
    s.switched("a", "b", Reason::FailureDetector);
    assert_eq!(s.circuit("a"), CircuitState::Open);
}

#[test]
fn failing_calls_wake_a_probe_at_once_but_not_for_every_call() {
    let mut s = pair();
    let before = s.probes;
    s.fail("a", 1);
    let asked = s.asked_of("a");
    assert!(
        asked
            .iter()
            .any(|p| p.slot == Slot::Probe && !p.round && !p.fresh)
    );
    for _ in 0..100 {
        s.evidence("a", |e| e.seen = Observed::new(10, 1));
        s.wait(ms(1));
    }
    assert!(
        (1..=3).contains(&(s.probes - before)),
        "{}",
        s.probes - before
    );
}

#[test]
fn refused_credentials_are_tried_over_a_new_connection() {
    let mut s = pair();
    s.evidence("a", |e| e.denied = true);
    assert!(
        s.asked_of("a")
            .iter()
            .any(|p| p.slot == Slot::Probe && p.fresh)
    );
    s.is("a", faulty(FaultKind::Denied));
    s.quiet();
    s.switched("a", "b", Reason::HealthCheck);
}

#[test]
fn evidence_against_a_standby_opens_that_and_nothing_else() {
    let mut s = pair();
    s.fail("b", 20);
    s.quiet();
    s.stayed();
    assert_eq!(s.serving(), Some("a"));
    assert_eq!(s.circuit("a"), CircuitState::Closed);
    assert_eq!(s.circuit("b"), CircuitState::Open);
}

#[test]
fn evidence_of_another_episode_is_worth_nothing() {
    let mut s = pair();
    let old = s.episode("a");
    s.order(Verb::ForceOpen(id("a")));
    s.order(Verb::Reset(id("a")));
    s.quiet();
    s.events.clear();
    s.evidence("a", |e| {
        e.episode = old;
        e.at_once = Some("READONLY");
        e.seen = Observed::new(0, 1000);
    });
    s.quiet();
    assert_eq!(s.events, []);
    s.stayed();
}

#[test]
fn callers_of_a_database_that_was_left_are_not_kept_waiting() {
    let mut s = pair();
    s.order(Verb::Force(id("a"), None));
    s.evidence("a", |e| {
        e.at_once = Some("READONLY");
        e.refusals = 3;
    });
    assert_eq!(judged(&s), [(3, true)], "nobody will leave a forced one");
}

// --- roles ---

#[test]
fn a_database_that_says_another_one_serves_is_left_without_blame() {
    for mood in [STANDBY, SUSPENDED] {
        let mut s = pair();
        s.is("a", mood);
        s.wait(secs(6));
        s.switched("a", "b", Reason::Standby);
        assert_eq!(s.circuit("a"), CircuitState::Closed);
        s.events.clear();
        s.is("a", HEALTHY);
        s.wait(secs(6));
        s.switched("b", "a", Reason::Fallback);
    }
}

#[test]
fn the_heavier_of_two_candidates_is_waited_for_but_not_for_long() {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0), ("c", 1.0)]);
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.answer("c");
    s.answer("a");
    s.stayed();
    s.answer("b");
    s.switched("a", "b", Reason::ConnectionLost);

    let mut s = Story::running(&[("a", 3.0), ("b", 2.0), ("c", 1.0)]);
    s.is("a", refuses());
    s.is("b", Mood::Hangs);
    s.lose("a", Slot::Traffic);
    s.quiet();
    s.wait(ms(149));
    s.stayed();
    s.wait(ms(1));
    s.switched("a", "c", Reason::ConnectionLost);
}

#[test]
fn the_heavier_candidate_is_waited_for_in_every_search_anew() {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0), ("c", 1.0)]);
    s.is("b", Mood::Hangs);
    s.order(Verb::SetEnabled(id("a"), false));
    s.quiet();
    s.order(Verb::SetEnabled(id("a"), true));
    s.wait(ms(400));
    s.is("b", HEALTHY);
    s.wait(secs(10));
    s.stayed();
    s.order(Verb::SetEnabled(id("a"), false));
    s.answer("c");
    s.stayed();
    s.answer("b");
    s.switched("a", "b", Reason::Disabled);
}

#[test]
fn a_suspicion_that_comes_too_soon_after_another_is_asked_about_later() {
    let mut s = pair();
    let failed = |s: &mut Story| {
        let episode = s.machine.episode(s.key("a")).unwrap();
        s.tell(Input::Evidence(Evidence {
            domain: "a".into(),
            episode,
            seen: Observed::new(0, 1),
            ..Evidence::default()
        }));
    };
    failed(&mut s);
    s.answer("a");
    // It answered the probe, and then it died.
    s.is("a", refuses());
    s.now += ms(10);
    failed(&mut s);
    failed(&mut s);
    assert_eq!(s.asked_of("a"), [], "not at once");
    s.wait(ms(100));
    assert_eq!(s.circuit("a"), CircuitState::Open);
    s.switched("a", "b", Reason::HealthCheck);
}

/// `a` alone, cornered by a verdict of whatever kind; then `b` joins.
fn joined_after(cornered: impl FnOnce(&mut Story)) -> Story {
    let mut s = Story::running(&[("a", 1.0)]);
    cornered(&mut s);
    let b = s.describe("b", 1.0, |_| {});
    s.order(Verb::Add {
        member: b,
        verify: false,
    });
    s.quiet();
    s
}

fn told(s: &mut Story, evidence: Evidence) {
    let episode = s.machine.episode(s.key("a")).unwrap();
    s.tell(Input::Evidence(Evidence {
        domain: "a".into(),
        episode,
        ..evidence
    }));
}

#[test]
fn a_refusal_that_a_write_has_refuted_is_no_reason_to_leave_when_somebody_joins() {
    let loads = || Evidence {
        seen: Observed::new(0, 1),
        at_once: Some("LOADING"),
        ..Evidence::default()
    };
    let wrote = Evidence {
        seen: Observed::new(9, 0),
        wrote: true,
        ..Evidence::default()
    };
    joined_after(|s| told(s, loads())).switched("a", "b", Reason::ServerState);
    joined_after(|s| {
        told(s, loads());
        told(s, wrote);
    })
    .stayed();
}

#[test]
fn what_a_probe_found_bad_and_then_well_is_no_reason_to_leave_when_somebody_joins() {
    let round = |s: &mut Story, mood| {
        s.is("a", mood);
        s.wait(secs(6));
    };
    joined_after(|s| round(s, loads())).switched("a", "b", Reason::ServerState);
    joined_after(|s| {
        round(s, loads());
        round(s, HEALTHY);
    })
    .stayed();
}

#[test]
fn a_failure_rate_is_forgotten_with_its_window() {
    let failing = || Evidence {
        seen: Observed::new(0, 30),
        ..Evidence::default()
    };
    joined_after(|s| told(s, failing())).switched("a", "b", Reason::FailureDetector);
    joined_after(|s| {
        told(s, failing());
        s.wait(secs(3));
    })
    .stayed();
}

#[test]
fn calls_that_go_well_do_not_hide_what_is_due_at_that_moment() {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0), ("c", 1.0)]);
    s.is("b", Mood::Hangs);
    s.order(Verb::SetEnabled(id("a"), false));
    s.answer("c");
    s.stayed();
    // The heavier one has not answered in time, and the timer is a moment late.
    s.now += ms(151);
    told(
        &mut s,
        Evidence {
            seen: Observed::new(9, 0),
            ..Evidence::default()
        },
    );
    s.switched("a", "c", Reason::Disabled);
}

#[test]
fn a_suspicion_is_not_lost_on_an_attempt_that_takes_longer_than_its_pause() {
    let mut s = pair();
    let failed = || Evidence {
        seen: Observed::new(0, 1),
        ..Evidence::default()
    };
    told(&mut s, failed());
    let slow = s.asked_of("a").pop().unwrap().id;
    s.now += ms(90);
    told(&mut s, failed());
    s.now += ms(15);
    s.tell(Input::Tick);
    s.is("a", refuses());
    s.now += ms(15);
    s.answer_with(slow, Verdict::Healthy);
    s.wait(ms(200));
    assert_eq!(s.circuit("a"), CircuitState::Open);
    s.switched("a", "b", Reason::HealthCheck);
}

/// Alone, and so kept; said once that there is nowhere to go, not once more when all is well again.
#[test]
fn refusals_of_a_state_that_is_over_are_no_rate_of_failures() {
    let mut s = Story::running(&[("a", 1.0)]);
    s.evidence("a", |e| {
        e.seen = Observed::new(0, 40);
        e.at_once = Some("READONLY");
    });
    s.quiet();
    for _ in 0..3 {
        s.wait(ms(100));
        s.evidence("a", |e| {
            e.seen = Observed::new(5, 0);
            e.wrote = true;
        });
        s.quiet();
    }
    let nowhere = |event: &&Event| matches!(event, Event::NowhereToGo { .. });
    assert_eq!(
        s.events.iter().filter(nowhere).count(),
        1,
        "{:#?}",
        s.events
    );
}

// --- our own limits ---

fn exhausted() -> Mood {
    faulty(FaultKind::Local)
}

#[test]
fn what_we_have_no_socket_for_is_nobodys_failure() {
    let mut s = Story::running(&[("a", 2.0), ("b", 1.0)]);
    s.is("a", exhausted());
    s.is("b", exhausted());
    s.wait(secs(60));
    assert_eq!(s.serving(), Some("a"), "its connection stands");
    assert_eq!(s.circuit_changes(), []);
    s.stayed();
}

#[test]
fn one_whose_connection_we_cannot_make_anew_is_left_for_one_that_stands() {
    let mut s = Story::running(&[("a", 2.0), ("b", 1.0)]);
    s.is("a", exhausted());
    s.lose("a", Slot::Traffic);
    s.quiet();
    assert_eq!(s.serving(), Some("b"));
}

#[test]
fn nobody_is_asked_on_and_on_while_we_have_no_socket() {
    let mut s = Story::running(&[("a", 2.0), ("b", 1.0)]);
    s.is("b", exhausted());
    s.lose("b", Slot::Traffic);
    s.quiet();
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.quiet();
    assert_eq!(s.serving(), None);
    let before = s.probes;
    s.wait(secs(10));
    assert!(s.probes - before < 60, "{}", s.probes - before);
    s.is("b", HEALTHY);
    s.wait(ms(1_100));
    assert_eq!(s.serving(), Some("b"));
}

#[test]
fn a_connection_that_we_cannot_make_anew_is_tried_again_at_the_pace_of_reconnects() {
    let mut s = Story::running(&[("a", 1.0)]);
    s.is("a", exhausted());
    s.lose("a", Slot::Traffic);
    s.wait(secs(10));
    assert!(s.probes < 60, "{}", s.probes);
    assert_eq!(s.circuit("a"), CircuitState::Closed);
    s.is("a", HEALTHY);
    s.wait(ms(1_100));
    assert_eq!(s.serving(), Some("a"));
    assert!(s.links.contains(&(s.key("a"), Slot::Traffic)));
}
