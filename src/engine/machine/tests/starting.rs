//! The first database, and how long one waits for it.

use super::*;

fn with(policy: StartPolicy, cast: Cast<'_>) -> Story {
    let mut config = config();
    config.start.policy = policy;
    let mut s = Story::cast(config, cast);
    s.start();
    s
}

#[test]
fn nothing_is_asked_before_the_start() {
    let s = Story::cast(config(), &[("a", 1.0)]);
    assert_eq!(s.machine.deadline(), None);
    assert_eq!(s.machine.status(), Status::Starting);
}

#[test]
fn everybody_is_asked_at_once() {
    let s = with(StartPolicy::One, &[("a", 1.0), ("b", 1.0), ("c", 1.0)]);
    assert_eq!(s.asked.len(), 3);
    assert!(
        s.asked
            .iter()
            .all(|asked| asked.probe.slot == Slot::Traffic)
    );
}

#[test]
fn the_start_is_over_as_soon_as_the_first_database_is_chosen() {
    let mut s = with(StartPolicy::One, &[("a", 2.0), ("b", 1.0)]);
    s.answer("a");
    assert_eq!(s.started_with(), Some(Ok(())));
    assert_eq!(s.serving(), Some("a"));
    assert_eq!(s.machine.status(), Status::Serving);
}

#[test]
fn one_of_many_is_enough_by_default_but_a_heavier_one_is_waited_for_a_little() {
    let mut s = with(StartPolicy::One, &[("a", 2.0), ("b", 1.0)]);
    s.is("a", Mood::Hangs);
    s.wait(ms(149));
    assert_eq!(s.started_with(), None);
    s.wait(ms(2));
    assert_eq!(s.started_with(), Some(Ok(())));
    assert_eq!(s.serving(), Some("b"));
    s.is("a", HEALTHY);
    s.answer("a");
    s.quiet();
    assert_eq!(s.serving(), Some("a"), "a late joiner is a full member");
}

#[test]
fn a_restart_during_an_outage_of_one_works_at_once() {
    let mut s = with(StartPolicy::One, &[("a", 2.0), ("b", 1.0)]);
    s.is("a", refuses());
    s.quiet();
    assert_eq!(s.started_with(), Some(Ok(())));
    assert_eq!(s.serving(), Some("b"));
    assert_eq!(s.circuit("a"), CircuitState::Open);
}

#[test]
fn all_must_answer_if_that_is_the_policy() {
    let mut s = with(StartPolicy::All, &[("a", 2.0), ("b", 1.0)]);
    s.answer("a");
    assert_eq!(s.started_with(), None);
    assert_eq!(s.machine.status(), Status::Starting);
    s.answer("b");
    assert_eq!(s.started_with(), Some(Ok(())));

    let mut s = with(StartPolicy::All, &[("a", 2.0), ("b", 1.0)]);
    s.is("b", refuses());
    s.answer("b");
    let failed = Some(Err(ErrorKind::NotStarted));
    assert_eq!(s.started_with(), failed, "certain before `a` has answered");
}

#[test]
fn a_majority_decides_as_soon_as_it_is_certain() {
    let mut s = with(StartPolicy::Majority, &[("a", 3.0), ("b", 2.0), ("c", 1.0)]);
    s.is("c", Mood::Hangs);
    s.answer("b");
    assert_eq!(s.started_with(), None);
    s.answer("a");
    assert_eq!(s.started_with(), Some(Ok(())));
}

#[test]
fn a_policy_of_the_users_decides() {
    let lenient =
        StartPolicy::Custom(|counts| (counts.available + counts.failed > 1).then_some(true));
    let mut s = with(lenient, &[("a", 3.0), ("b", 2.0), ("c", 1.0)]);
    s.is("a", refuses());
    s.answer("a");
    assert_eq!(s.started_with(), None);
    s.answer("b");
    s.answer("c");
    assert_eq!(s.started_with(), Some(Ok(())));
    assert_eq!(s.serving(), Some("b"));
}

#[test]
fn the_deadline_ends_the_waiting() {
    let mut s = with(StartPolicy::One, &[("a", 2.0)]);
    s.moods.insert(MemberKey(1), Mood::Hangs);
    s.asked[0].probe.timeout = secs(60);
    s.wait(ms(4_999));
    assert_eq!(s.started_with(), None);
    s.wait(ms(1));
    assert_eq!(s.started_with(), Some(Err(ErrorKind::NotStarted)));
}

#[test]
fn a_database_that_answers_just_before_the_deadline_is_served_from() {
    let mut s = with(StartPolicy::One, &[("a", 2.0), ("b", 1.0)]);
    for asked in &mut s.asked {
        asked.probe.timeout = secs(60);
    }
    s.is("a", Mood::Hangs);
    s.is("b", Mood::Hangs);
    s.wait(ms(4_950));
    s.is("b", HEALTHY);
    s.wait(ms(60));
    assert_eq!(s.started_with(), Some(Ok(())));
    assert_eq!(s.serving(), Some("b"));
}

#[test]
fn nobody_waits_for_a_lazy_start() {
    let mut s = Story::cast(config(), &[("a", 2.0), ("b", 1.0)]);
    s.tell(Input::Start { lazy: true });
    assert_eq!(s.asked.len(), 2);
    s.quiet();
    assert_eq!(s.started_with(), None);
    assert_eq!(s.serving(), Some("a"));
    s.tell(Input::Start { lazy: false });
    assert_eq!(s.asked.len(), 0, "started already");
}

#[test]
fn orders_given_before_the_start_are_answered_after_it() {
    let mut s = Story::cast(config(), &[("a", 2.0), ("b", 1.0)]);
    let weighed = s.order(Verb::SetWeight(id("b"), weight(3.0)));
    let ordered = s.order(Verb::SwitchTo(id("a")));
    s.start();
    s.quiet();
    assert_eq!(s.answer_to(weighed), Some(Ok(())));
    assert!(s.answer_to(ordered).is_some());
}

#[test]
fn a_start_with_everybody_down_fails_and_names_the_culprit() {
    let mut s = with(StartPolicy::One, &[("a", 2.0), ("b", 1.0)]);
    s.is("a", refuses());
    s.is("b", refuses());
    s.quiet();
    let error = s.effects.iter().find_map(|e| match e {
        Effect::Started(Err(error)) => Some(error.clone()),
        _ => None,
    });
    let error = error.unwrap();
    assert_eq!(error.kind(), &ErrorKind::NotStarted);
    assert_eq!(error.database(), Some(&id("a")));
    assert!(s.machine.status() != Status::Starting);
}

#[test]
fn the_same_seed_and_the_same_inputs_give_the_same_effects() {
    let run = || {
        let now = Instant::now();
        let mut machine = Machine::with_defaults(config(), 42, now);
        for (key, name) in [(1, "a"), (2, "b")] {
            machine.seed_member(described(key, name, key as f64));
        }
        let mut log = Vec::new();
        let mut inputs = vec![Input::Start { lazy: false }];
        for step in 0..200 {
            let at = now + ms(step * 700);
            for input in inputs.drain(..).chain([Input::Tick]) {
                log.extend(machine.handle(at, input));
            }
            let member = MemberKey(1 + step % 2);
            inputs.push(Input::Lost {
                member,
                slot: Slot::Traffic,
            });
            inputs.push(Input::Probed {
                probe: ProbeId(step),
                verdict: Verdict::Unhealthy(Fault::new(FaultKind::Lost, "x")),
                rtt: None,
                connected: false,
            });
        }
        format!("{log:?}")
    };
    assert_eq!(run(), run());
}

// --- hints ---

fn hinted(hint: &str) -> Story {
    let mut s = Story::cast(config(), &[("a", 3.0), ("b", 2.0), ("c", 1.0)]);
    s.machine.hint(Some(id(hint)));
    s
}

#[test]
fn a_hint_is_the_first_choice_where_several_serve() {
    let mut s = hinted("c");
    s.start();
    s.answer("a");
    assert_eq!(
        s.active(),
        None,
        "it is waited for as the heaviest one would be"
    );
    s.answer("c");
    assert_eq!(s.serving(), Some("c"));
    s.wait(secs(200));
    assert_eq!(s.serving(), Some("a"), "from then on the weights decide");
}

#[test]
fn a_hint_that_is_wrong_costs_a_moment_and_nothing_else() {
    for mood in [refuses(), STANDBY, Mood::Hangs] {
        let mut s = hinted("c");
        s.is("c", mood);
        s.start();
        s.wait(ms(200));
        assert_eq!(s.serving(), Some("a"));
    }
    let mut s = hinted("nobody");
    s.start();
    s.quiet();
    assert_eq!(s.serving(), Some("a"));
}
