//! Who serves while all is well.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn the_heaviest_serves() {
    let mut s = Story::cast(config(), &[("a", 1.0), ("b", 3.0), ("c", 2.0)]);
    s.start();
    s.quiet();
    assert_eq!(s.serving(), Some("b"));
    let first = (None, "b".to_owned(), Reason::Initial);
    assert_eq!(s.switches(), [first]);
}

#[test]
fn among_equals_the_first_added_is_chosen_and_the_active_stays() {
    let mut s = Story::running(&[("a", 1.0), ("b", 1.0)]);
    assert_eq!(s.serving(), Some("a"));
    s.order(Verb::SwitchTo(id("b")));
    s.quiet();
    s.order(Verb::Unpin);
    s.events.clear();
    s.wait(secs(600));
    assert_eq!(s.serving(), Some("b"));
    s.stayed();
}

#[test]
fn weight_zero_is_never_chosen_by_itself() {
    let mut s = Story::running(&[("a", 1.0), ("b", 0.0)]);
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.wait(secs(30));
    assert_eq!(s.serving(), None);
    s.stayed();
}

#[test]
fn a_disabled_database_is_watched_but_not_served_from() {
    let mut s = Story::cast(config(), &[("a", 1.0)]);
    s.seed("b", 9.0, |m| m.enabled = false);
    let mut s = s.started();
    assert_eq!(s.serving(), Some("a"));
    assert_eq!(s.view("b").obstacles, [Obstacle::Disabled]);
    s.wait(secs(10));
    assert_eq!(s.view("b").verdict, Some(Verdict::Healthy));
    s.order(Verb::SetEnabled(id("b"), true));
    s.quiet();
    s.switched("a", "b", Reason::Fallback);
}

#[test]
fn a_new_weight_up_or_down_decides_at_once_and_proves_first() {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0)]);
    s.order(Verb::SetWeight(id("b"), weight(4.0)));
    assert_eq!(s.active(), Some("a"), "not proven yet");
    assert!(s.asked_of("b").iter().any(|p| p.slot == Slot::Traffic));
    s.quiet();
    s.switched("a", "b", Reason::Fallback);

    s.events.clear();
    s.order(Verb::SetWeight(id("b"), weight(1.0)));
    s.quiet();
    s.switched("b", "a", Reason::Fallback);
}

#[test]
fn the_active_leaves_when_its_weight_becomes_zero_and_stays_if_it_is_alone() {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0)]);
    s.order(Verb::SetWeight(id("a"), Weight::ZERO));
    s.quiet();
    s.switched("a", "b", Reason::Fallback);

    s.events.clear();
    s.order(Verb::SetWeight(id("b"), Weight::ZERO));
    s.wait(secs(60));
    assert_eq!(s.serving(), Some("b"));
    s.stayed();
}

#[test]
fn setting_what_is_so_already_is_silent() {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0)]);
    for verb in [
        Verb::SetWeight(id("a"), weight(3.0)),
        Verb::SetEnabled(id("b"), true),
        Verb::Reset(id("a")),
        Verb::Unpin,
        Verb::SwitchTo(id("a")),
        Verb::Force(id("a"), None),
    ] {
        let ticket = s.order(verb);
        s.quiet();
        assert_eq!(s.answer_to(ticket), Some(Ok(())));
    }
    assert_eq!(s.events, []);
    assert_eq!(s.machine.generation(), 1);
}

#[test]
fn it_returns_to_a_heavier_database_once_that_is_proven() {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0)]);
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.quiet();
    assert_eq!(s.serving(), Some("b"));
    s.events.clear();
    s.is("a", HEALTHY);
    s.wait(secs(53));
    s.stayed();
    s.wait(secs(14));
    s.switched("b", "a", Reason::Fallback);
}

#[test]
fn without_auto_fallback_it_stays_until_an_operator_wants_otherwise() {
    let mut config = config();
    config.failover.auto_fallback = false;
    let mut s = Story::running_with(config, &[("a", 3.0), ("b", 2.0)]);
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.quiet();
    s.is("a", HEALTHY);
    s.events.clear();
    s.wait(secs(600));
    assert_eq!(s.circuit("a"), CircuitState::Closed);
    s.stayed();

    s.order(Verb::SetWeight(id("a"), weight(5.0)));
    s.quiet();
    s.switched("b", "a", Reason::Fallback);
}

#[test]
fn auto_fallback_can_be_paused_and_resumed() {
    let mut s = Story::running(&[("a", 3.0), ("b", 2.0)]);
    s.order(Verb::SetAutoFallback(false));
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.quiet();
    s.is("a", HEALTHY);
    s.events.clear();
    s.wait(secs(300));
    s.stayed();
    s.order(Verb::SetAutoFallback(true));
    s.quiet();
    s.switched("b", "a", Reason::Fallback);
}

#[test]
fn a_replica_serves_only_where_a_replica_will_do() {
    let now = Instant::now();
    for (required, expected) in [(Role::Primary, "a"), (Role::Replica, "b")] {
        let machine = Machine::new(
            config(),
            Arc::new(HighestWeight),
            |config| Box::new(SlidingWindow::new(config.clone())),
            required,
            7,
            now,
        );
        let mut s = Story::around(machine, now, &[("a", 1.0)]);
        s.seed("b", 2.0, |m| m.role = Role::Replica);
        let s = s.started();
        assert_eq!(s.serving(), Some(expected));
        let hidden = s.view("b").obstacles == [Obstacle::Role];
        assert_eq!(hidden, required == Role::Primary);
    }
}

// --- strategies ---

/// Answers what it is told to, or panics.
struct Scripted {
    answer: Option<usize>,
    panics: AtomicBool,
}

impl FailoverStrategy for Scripted {
    fn choose(&self, _: &[Candidate<'_>]) -> Option<usize> {
        assert!(!self.panics.load(Ordering::Relaxed), "on purpose");
        self.answer
    }
}

use crate::engine::strategy::Candidate;

fn led_by(strategy: Arc<Scripted>, cast: Cast<'_>) -> Story {
    let now = Instant::now();
    let machine = Machine::new(
        config(),
        strategy,
        |config| Box::new(SlidingWindow::new(config.clone())),
        Role::Primary,
        7,
        now,
    );
    let mut story = Story::around(machine, now, cast);
    story.start();
    story.quiet();
    story
}

fn scripted(answer: Option<usize>, panics: bool) -> Arc<Scripted> {
    Arc::new(Scripted {
        answer,
        panics: AtomicBool::new(panics),
    })
}

fn complaints(s: &Story) -> usize {
    s.count(|e| matches!(e, Event::PolicyPanicked { policy } if *policy == "failover strategy"))
}

#[test]
fn a_strategy_of_the_users_decides() {
    let s = led_by(scripted(Some(0), false), &[("a", 1.0), ("b", 9.0)]);
    assert_eq!(s.serving(), Some("a"));
    assert_eq!(complaints(&s), 0);
}

#[test]
fn a_strategy_that_panics_or_answers_nonsense_is_replaced_by_the_default_and_that_is_said() {
    for strategy in [scripted(None, true), scripted(Some(7), false)] {
        let s = led_by(strategy, &[("a", 1.0), ("b", 9.0)]);
        assert_eq!(s.serving(), Some("b"));
        assert!(complaints(&s) > 0);
    }
}

#[test]
fn a_strategy_that_wants_nobody_leaves_an_outage_that_is_said() {
    let mut s = led_by(scripted(None, false), &[("a", 1.0), ("b", 9.0)]);
    s.wait(secs(1));
    assert_eq!(s.serving(), None);
    assert_eq!(s.count(|e| matches!(e, Event::AllUnavailable { .. })), 1);
    s.wait(secs(130));
    assert_eq!(s.machine.status(), Status::GaveUp);
}

#[test]
fn a_detector_that_panics_is_replaced_by_the_default_and_that_is_said() {
    struct Fragile;
    impl FailureDetector for Fragile {
        fn observe(&mut self, _: Instant, _: Observed) -> bool {
            panic!("on purpose")
        }
        fn reset(&mut self) {}
    }
    let now = Instant::now();
    let machine = Machine::new(
        config(),
        Arc::new(HighestWeight),
        |_| Box::new(Fragile),
        Role::Primary,
        7,
        now,
    );
    let mut s = Story::around(machine, now, &[("a", 2.0), ("b", 1.0)]).started();
    s.fail("a", 1);
    let said = |e: &Event| {
        *e == Event::PolicyPanicked {
            policy: "failure detector",
        }
    };
    assert_eq!(s.count(said), 1);
    s.fail("a", 20);
    s.quiet();
    s.switched("a", "b", Reason::FailureDetector);
}
