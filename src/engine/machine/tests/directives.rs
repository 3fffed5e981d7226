//! What servers say of who serves: compare-and-set, patience with a target, and two stacks on one endpoint.

use super::*;
use crate::engine::backend::NotServing;

/// Two stacks behind one endpoint: blue serves, green stands by.
fn stacks() -> Story {
    let mut s = Story::sharing(&[("blue", 2.0), ("green", 1.0)]);
    s.is("green", STANDBY);
    s.start();
    s.quiet();
    s.events.clear();
    assert_eq!(s.serving(), Some("blue"));
    s
}

fn stand_down(who: &str, observed: u64) -> Verb {
    Verb::StandDown {
        database: id(who),
        observed,
        what: NotServing::Standby,
    }
}

// --- announced ---

#[test]
fn an_announced_database_is_proven_and_moved_to_against_the_weights() {
    let mut s = stacks();
    s.is("green", HEALTHY);
    let ticket = s.direct("green", 1);
    assert_eq!(s.machine.directed_to(), Some(s.key("green")));
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    s.wait(secs(3_600));
    s.switched("blue", "green", Reason::Directed);
    assert_eq!(s.circuit_changes(), []);
}

#[test]
fn any_number_of_callers_with_the_same_news_make_one_switch() {
    let mut s = stacks();
    s.is("green", HEALTHY);
    let tickets: Vec<_> = (0..64).map(|_| s.direct("green", 1)).collect();
    s.quiet();
    let late = s.direct("green", 1);
    s.quiet();
    for ticket in tickets.into_iter().chain([late]) {
        assert_eq!(s.answer_to(ticket), Some(Ok(())));
    }
    assert_eq!(s.switches().len(), 1);
}

#[test]
fn an_announcement_that_runs_ahead_is_told_once_and_followed_once_it_is_true() {
    let mut s = stacks();
    let ticket = s.direct("green", 1);
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Err(ErrorKind::Unhealthy)));
    assert_eq!(s.serving(), Some("blue"));
    let before = s.probes;
    s.wait(secs(4));
    let asked = s.probes - before;
    assert!((6..=14).contains(&asked), "50 ms doubling to 1 s: {asked}");
    let told =
        |e: &Event| matches!(e, Event::DirectiveRefused { database, .. } if *database == "green");
    assert_eq!(s.count(told), 1);
    s.is("green", HEALTHY);
    s.wait(secs(2));
    assert_eq!(s.serving(), Some("green"));
    assert_eq!(s.circuit_changes(), []);
    s.wait(secs(3_600));
    assert_eq!(s.serving(), Some("green"), "it stands");
}

#[test]
fn an_announcement_of_the_active_one_takes_the_other_back() {
    let mut s = stacks();
    s.direct("green", 1);
    s.quiet();
    let ticket = s.direct("blue", 1);
    s.quiet();
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    s.is("green", HEALTHY);
    s.wait(secs(3_600));
    assert_eq!((s.serving(), s.switches().len()), (Some("blue"), 0));
    assert_eq!(s.machine.directed_to(), Some(s.key("blue")));
}

#[test]
fn one_that_is_still_being_asked_is_taken_back_too() {
    let mut s = stacks();
    s.is("green", HEALTHY);
    let first = s.direct("green", 1);
    s.direct("blue", 1);
    assert_eq!(s.answer_to(first), Some(Err(ErrorKind::Superseded)));
    s.quiet();
    s.wait(secs(60));
    assert_eq!(s.switches().len(), 0);
}

#[test]
fn old_news_of_the_active_one_takes_nothing_back() {
    let mut s = stacks();
    s.is("green", HEALTHY);
    s.direct("green", 1);
    s.quiet();
    s.direct("blue", 2);
    s.quiet();
    assert_eq!(s.serving(), Some("blue"), "rolled back");
    s.is("green", STANDBY);
    s.direct("green", 3);
    s.quiet();
    let late = s.direct("blue", 1);
    s.quiet();
    assert_eq!(s.answer_to(late), Some(Err(ErrorKind::Superseded)));
    s.is("green", HEALTHY);
    s.wait(secs(2));
    assert_eq!(s.serving(), Some("green"));
}

#[test]
fn an_operator_ends_the_waiting_for_a_target() {
    let mut s = stacks();
    s.direct("green", 1);
    s.quiet();
    s.order(Verb::Unpin);
    s.is("green", HEALTHY);
    s.wait(secs(60));
    assert_eq!((s.serving(), s.machine.directed_to()), (Some("blue"), None));
}

#[test]
fn a_directed_database_that_fails_loses_the_directive() {
    let mut s = Story::running(&[("blue", 2.0), ("green", 1.0)]);
    s.direct("green", 1);
    s.quiet();
    assert_eq!(s.serving(), Some("green"));
    s.is("green", refuses());
    s.lose("green", Slot::Traffic);
    s.quiet();
    assert_eq!(
        s.serving(),
        Some("blue"),
        "the way back is the same order backwards"
    );
    s.is("green", HEALTHY);
    s.wait(secs(3_600));
    assert_eq!(s.serving(), Some("blue"));
}

// --- refused ---

#[test]
fn one_that_says_it_stands_by_is_left_for_whoever_serves_now() {
    let mut s = stacks();
    s.is("blue", STANDBY);
    s.is("green", HEALTHY);
    let ticket = s.order(stand_down("blue", 1));
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    assert_eq!(s.serving(), None, "nobody is sent there any more");
    s.quiet();
    s.switched("blue", "green", Reason::Standby);
    assert_eq!(s.circuit_changes(), []);
    s.wait(secs(3_600));
    assert_eq!(s.serving(), Some("green"));
}

#[test]
fn a_warm_standby_takes_over_without_being_asked_first() {
    let mut s = stacks();
    s.is("green", HEALTHY);
    s.wait(secs(12));
    s.events.clear();
    assert_eq!(
        s.serving(),
        Some("blue"),
        "the heavier one of two that serve"
    );
    s.is("blue", STANDBY);
    s.order(stand_down("blue", 1));
    assert_eq!(
        s.serving(),
        Some("green"),
        "and nothing has been answered meanwhile"
    );
    s.switched("blue", "green", Reason::Standby);
}

#[test]
fn sixty_four_refusals_make_one_switch() {
    let mut s = stacks();
    s.is("blue", STANDBY);
    s.is("green", HEALTHY);
    for _ in 0..64 {
        s.order(stand_down("blue", 1));
    }
    s.quiet();
    let late = s.order(stand_down("blue", 1));
    assert_eq!(s.answer_to(late), Some(Err(ErrorKind::Superseded)));
    s.wait(secs(30));
    assert_eq!((s.switches().len(), s.serving()), (1, Some("green")));
}

#[test]
fn where_both_stand_by_both_are_asked_until_one_serves() {
    for saviour in ["blue", "green"] {
        let mut s = stacks();
        s.is("blue", STANDBY);
        s.order(stand_down("blue", 1));
        s.quiet();
        assert_eq!(s.machine.status(), Status::Waiting);
        let before = s.probes;
        s.wait(secs(10));
        let asked = s.probes - before;
        assert!(
            (20..=50).contains(&asked),
            "each, 50 ms doubling to 1 s: {asked}"
        );
        s.is(saviour, HEALTHY);
        s.wait(ms(1_100));
        assert_eq!(s.serving(), Some(saviour));
        assert_eq!(s.circuit_changes(), []);
    }
}

#[test]
fn a_suspended_pair_serves_again_within_a_second_of_being_resumed() {
    let mut s = stacks();
    s.is("blue", SUSPENDED);
    s.is("green", SUSPENDED);
    s.order(Verb::StandDown {
        database: id("blue"),
        observed: 1,
        what: NotServing::Suspended,
    });
    s.wait(secs(90));
    assert_eq!(s.serving(), None);
    s.is("blue", HEALTHY);
    s.is("green", STANDBY);
    s.wait(ms(1_100));
    assert_eq!(s.serving(), Some("blue"));
}

#[test]
fn whoever_is_forced_stays_whatever_it_says() {
    let mut s = stacks();
    s.order(Verb::Force(id("blue"), None));
    s.is("green", HEALTHY);
    s.order(stand_down("blue", 1));
    s.wait(secs(30));
    assert_eq!((s.serving(), s.switches().len()), (Some("blue"), 0));
}

#[test]
fn a_target_on_the_way_is_given_up_with_the_wish_for_it() {
    let mut s = stacks();
    s.stuck_followers = true;
    s.direct("green", 1);
    s.quiet();
    s.is("green", HEALTHY);
    s.wait(ms(100));
    assert_eq!(s.serving(), Some("blue"), "its followers are waited for");
    s.order(Verb::Unpin);
    s.wait(secs(60));
    assert_eq!(s.switches().len(), 0);
}
