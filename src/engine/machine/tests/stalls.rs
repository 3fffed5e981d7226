//! Silence: when it is a hang, and when it is not.

use super::*;

fn pair() -> Story {
    Story::running(&[("a", 3.0), ("b", 2.0)])
}

/// `a` owes answers for 150 ms and is silent on its probe connection as well.
fn suspected() -> Story {
    let mut s = pair();
    s.is("a", Mood::Hangs);
    s.stall("a", ms(150));
    s
}

#[test]
fn suspect_and_standby_are_asked_and_the_silent_one_is_left() {
    let mut s = suspected();
    let suspect = s.asked_of("a").pop().unwrap();
    let standby = s.asked_of("b").pop().unwrap();
    assert_eq!((suspect.slot, standby.slot), (Slot::Probe, Slot::Traffic));
    s.wait(ms(149));
    s.stayed();
    s.wait(ms(10));
    s.switched("a", "b", Reason::Stalled);
    assert_eq!(s.circuit("a"), CircuitState::Open);
    assert!(
        s.aborted("a", Slot::Traffic),
        "its calls are released at once"
    );
}

#[test]
fn a_suspect_that_answers_is_left_alone() {
    let mut s = suspected();
    s.wait(ms(100));
    s.is("a", HEALTHY);
    s.answer("a");
    s.wait(secs(5));
    s.stayed();
    assert_eq!(s.circuit("a"), CircuitState::Closed);
}

#[test]
fn without_a_standby_that_answers_silence_is_nobodys_fault() {
    let mut s = suspected();
    s.is("b", Mood::Hangs);
    s.wait(ms(2_900));
    s.stayed();
    assert_eq!(s.circuit("a"), CircuitState::Closed);
}

#[test]
fn a_standby_that_answers_late_still_proves_the_hang() {
    let mut s = suspected();
    s.is("b", Mood::Hangs);
    s.wait(ms(1_000));
    s.stayed();
    s.is("b", HEALTHY);
    s.answer("b");
    s.switched("a", "b", Reason::Stalled);
}

#[test]
fn an_answer_of_the_standby_from_before_the_silence_is_no_proof() {
    let mut s = pair();
    s.wait(ms(500));
    s.is("b", Mood::Hangs);
    s.is("a", Mood::Hangs);
    s.stall("a", ms(150));
    s.wait(ms(1_000));
    s.stayed();
}

#[test]
fn when_we_were_late_ourselves_the_silence_must_last_while_we_watch() {
    let mut s = suspected();
    s.answer("b");
    s.wait(ms(149));
    s.tell(Input::Overrun);
    s.wait(ms(9));
    s.stayed();
    s.wait(ms(10));
    s.switched("a", "b", Reason::Stalled);
}

#[test]
fn a_suspect_that_answers_a_caller_is_slow_and_no_more() {
    let mut s = suspected();
    s.answer("b");
    s.wait(ms(100));
    s.stall("a", Duration::ZERO);
    s.wait(secs(2));
    s.stayed();
}

#[test]
fn a_machine_woken_too_late_looks_once_more() {
    let mut s = suspected();
    s.answer("b");
    s.now += ms(400);
    s.tell(Input::Tick);
    s.stayed();
    // The answer had been lying in the socket.
    s.is("a", HEALTHY);
    s.answer("a");
    s.wait(secs(1));
    s.stayed();

    let mut s = suspected();
    s.answer("b");
    s.now += ms(400);
    s.tell(Input::Tick);
    s.wait(ms(4));
    s.stayed();
    s.wait(ms(20));
    s.switched("a", "b", Reason::Stalled);
}

#[test]
fn a_short_silence_is_not_asked_about() {
    let mut s = pair();
    let before = s.probes;
    s.stall("a", ms(149));
    assert_eq!(s.probes, before);
}

#[test]
fn silence_of_a_database_that_does_not_serve_means_nothing() {
    let mut s = pair();
    let before = s.probes;
    s.stall("b", secs(10));
    assert_eq!(s.probes, before);
}

#[test]
fn a_slow_path_is_given_four_of_its_round_trips() {
    let mut s = Story::cast(config(), &[("a", 3.0), ("b", 2.0)]);
    s.start();
    while let Some(asked) = s.asked.first() {
        let probe = asked.probe.id;
        s.asked.remove(0);
        let rtt = Some(ms(100));
        let verdict = Verdict::Healthy;
        s.tell(Input::Probed {
            probe,
            verdict,
            rtt,
            connected: true,
        });
    }
    assert_eq!(s.machine.stall_age(), ms(400));
    s.is("a", Mood::Hangs);
    s.stall("a", ms(400));
    s.answer("b");
    s.events.clear();
    s.wait(ms(399));
    s.stayed();
    s.wait(ms(10));
    s.switched("a", "b", Reason::Stalled);
}

#[test]
fn the_sensitivity_decides_how_long_silence_is_borne() {
    for (sensitivity, half) in [
        (Sensitivity::Fast, 20),
        (Sensitivity::Balanced, 150),
        (Sensitivity::Conservative, 500),
        (Sensitivity::Custom(secs(4)), 2_000),
    ] {
        let mut config = config();
        config.sensitivity = sensitivity;
        let mut s = Story::running_with(config, &[("a", 3.0), ("b", 2.0)]);
        assert_eq!(s.machine.stall_age(), ms(half));
        s.is("a", Mood::Hangs);
        s.stall("a", ms(half));
        s.wait(ms(half - 1));
        s.stayed();
        s.wait(ms(10));
        s.switched("a", "b", Reason::Stalled);
    }
}

/// The suspect answers at 150 ms; the ping over the callers' connection, sent then, does not.
fn silent_connection() -> (Story, ProbeId) {
    let mut s = pair();
    s.stall("a", ms(150));
    let suspect = s.asked_of("a")[0].id;
    s.answer_with(suspect, Verdict::Healthy);
    let ping = s
        .asked_of("a")
        .into_iter()
        .find(|p| p.slot == Slot::Traffic);
    let ping = ping.unwrap().id;
    s.quiet_but(ping);
    assert_eq!(s.events, [], "the suspect answered");
    (s, ping)
}

#[test]
fn a_connection_that_owes_answers_while_its_database_gives_them_is_replaced() {
    let (mut s, _) = silent_connection();
    s.now += ms(355);
    let member = s.key("a");
    s.tell(Input::Stalled {
        member,
        age: ms(505),
        overdue: true,
    });
    assert!(s.aborted("a", Slot::Traffic));
    s.quiet();
    let replaced = |e: &Event| matches!(e, Event::ConnectionReplaced { .. });
    assert_eq!(s.count(replaced), 1);
    s.stayed();
    assert_eq!(s.circuit("a"), CircuitState::Closed);
    assert!(s.view("a").connected);
}

#[test]
fn a_connection_is_replaced_though_its_database_is_just_being_asked_once_more() {
    let (mut s, _) = silent_connection();
    s.now += ms(350);
    let member = s.key("a");
    let silent = |age, overdue| Input::Stalled {
        member,
        age,
        overdue,
    };
    // Asked, answered, and asked again a moment later, as silence goes on.
    s.tell(silent(ms(460), false));
    let suspect = s.asked_of("a").pop().unwrap().id;
    s.answer_with(suspect, Verdict::Healthy);
    s.tell(silent(ms(498), false));
    s.now += ms(3);
    s.tell(silent(ms(501), true));
    assert!(
        s.aborted("a", Slot::Traffic),
        "or further calls begin on it"
    );
    s.quiet();
    s.wait(secs(2));
    s.stayed();
}

#[test]
fn a_suspect_that_has_been_silent_for_a_while_is_asked_before_its_connection_is_replaced() {
    let (mut s, _) = silent_connection();
    s.is("a", Mood::Hangs);
    let member = s.key("a");
    let silent = |age, overdue| Input::Stalled {
        member,
        age,
        overdue,
    };
    s.now += ms(200);
    s.tell(silent(ms(350), false));
    s.answer("b");
    s.now += ms(140);
    s.tell(silent(ms(501), true));
    assert!(!s.aborted("a", Slot::Traffic), "it is the database");
    s.wait(ms(30));
    s.switched("a", "b", Reason::Stalled);
}

#[test]
fn a_connection_whose_ping_is_answered_is_not_replaced_however_long_a_call_takes() {
    let (mut s, ping) = silent_connection();
    s.answer_with(ping, Verdict::Healthy);
    s.now += ms(355);
    let member = s.key("a");
    s.tell(Input::Stalled {
        member,
        age: ms(505),
        overdue: true,
    });
    assert!(!s.aborted("a", Slot::Traffic));
}

#[test]
fn a_database_whose_connections_keep_falling_silent_is_left() {
    let mut s = pair();
    for round in 0..3 {
        s.stall("a", ms(150));
        let suspect = s.asked_of("a")[0].id;
        s.answer_with(suspect, Verdict::Healthy);
        let ping = s
            .asked_of("a")
            .into_iter()
            .find(|p| p.slot == Slot::Traffic);
        s.quiet_but(ping.unwrap().id);
        assert_eq!(s.active(), Some("a"), "round {round}");
        s.now += ms(355);
        let member = s.key("a");
        s.tell(Input::Stalled {
            member,
            age: ms(505),
            overdue: true,
        });
        s.quiet();
    }
    s.switched("a", "b", Reason::FailureDetector);
}

#[test]
fn a_silence_that_is_overdue_at_first_sight_is_asked_about_like_any_other() {
    let mut s = pair();
    s.wait(secs(2));
    s.is("a", Mood::Hangs);
    let member = s.key("a");
    s.tell(Input::Stalled {
        member,
        age: ms(505),
        overdue: true,
    });
    assert!(!s.aborted("a", Slot::Traffic), "its database may be hung");
    s.wait(ms(160));
    s.switched("a", "b", Reason::Stalled);
}

#[test]
fn an_operators_reset_ends_the_suspicion() {
    let mut s = suspected();
    s.order(Verb::Reset(id("a")));
    s.is("a", HEALTHY);
    s.wait(secs(3));
    s.stayed();
}

#[test]
fn a_forced_database_that_hangs_is_asked_one_thing_at_a_time() {
    let mut s = pair();
    s.is("a", Mood::Hangs);
    s.order(Verb::Force(id("a"), None));
    let before = s.probes;
    for _ in 0..40 {
        s.now += ms(38);
        s.stall("a", ms(200));
    }
    let asked = s.probes - before;
    assert!(asked <= 3, "{asked} probes over one connection");
}

#[test]
fn a_standby_that_hangs_is_asked_one_thing_at_a_time_whatever_the_active_does() {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0)]);
    s.is("b", Mood::Hangs);
    let before = s.probes;
    for _ in 0..40 {
        s.now += ms(38);
        s.stall("a", ms(200));
        s.answer("a");
    }
    let asked = s.asked_of("b").len();
    assert!(asked <= 2, "{asked} probes over one connection");
    assert!(s.probes - before > 40, "the active was asked every time");
}

#[test]
fn a_suspect_asked_before_its_circuit_changed_is_asked_again() {
    let mut s = pair();
    s.is("a", Mood::Hangs);
    s.stall("a", ms(150));
    s.order(Verb::Reset(id("a")));
    s.is("a", HEALTHY);
    s.stall("a", ms(150));
    for probe in s.asked_of("a") {
        s.answer_with(probe.id, Verdict::Healthy);
    }
    s.wait(secs(2));
    s.stayed();
}
