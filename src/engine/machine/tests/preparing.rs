//! Followers of the active one go ahead of a planned switch, and of no other.

use super::*;

fn stuck() -> Story {
    let mut story = Story::running(&[("a", 3.0), ("b", 2.0), ("c", 1.0)]);
    story.stuck_followers = true;
    story
}

impl Story {
    fn sent_ahead(&self) -> Vec<&'static str> {
        let sent = self.effects.iter().filter_map(|effect| match effect {
            Effect::Prepare { member } => Some(self.names[member]),
            _ => None,
        });
        sent.collect()
    }

    fn all_follow_to(&mut self, name: &str) {
        let member = self.key(name);
        self.tell(Input::Prepared { member });
    }
}

#[test]
fn a_planned_switch_waits_for_followers() {
    let mut s = stuck();
    let ticket = s.order(Verb::SwitchTo(id("c")));
    s.quiet();
    assert_eq!(s.sent_ahead(), ["c"]);
    assert_eq!(s.machine.upcoming(), Some(s.key("c")));
    assert_eq!((s.active(), s.answer_to(ticket)), (Some("a"), None));
    s.all_follow_to("b");
    assert_eq!(s.active(), Some("a"), "that was another one");
    s.all_follow_to("c");
    s.switched("a", "c", Reason::Manual);
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
    assert_eq!(s.machine.upcoming(), None);
}

#[test]
fn it_waits_for_a_second_at_most() {
    let mut s = stuck();
    s.order(Verb::SwitchTo(id("c")));
    s.quiet();
    s.wait(ms(990));
    assert_eq!(s.active(), Some("a"));
    s.wait(ms(20));
    s.switched("a", "c", Reason::Manual);
}

#[test]
fn so_does_leaving_one_that_is_removed_or_disabled() {
    for verb in [Verb::Remove(id("a")), Verb::SetEnabled(id("a"), false)] {
        let mut s = stuck();
        s.order(verb);
        s.quiet();
        assert_eq!(s.sent_ahead(), ["b"]);
        assert_eq!(s.serving(), Some("a"));
        s.all_follow_to("b");
        assert_eq!(s.serving(), Some("b"));
    }
}

#[test]
fn a_failover_waits_for_nobody() {
    let mut s = stuck();
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.quiet();
    s.switched("a", "b", Reason::ConnectionLost);
    assert!(s.sent_ahead().is_empty());
}

#[test]
fn a_failover_during_the_preparation_goes_at_once() {
    let mut s = stuck();
    s.order(Verb::SwitchTo(id("c")));
    s.quiet();
    s.is("a", refuses());
    s.lose("a", Slot::Traffic);
    s.quiet();
    assert_ne!(s.active(), Some("a"));
    assert_eq!(s.machine.upcoming(), None);
}

#[test]
fn force_waits_for_nobody() {
    let mut s = stuck();
    s.order(Verb::Force(id("c"), None));
    s.switched("a", "c", Reason::Forced);
    assert!(s.sent_ahead().is_empty());
}

#[test]
fn a_target_that_fails_meanwhile_is_forgotten() {
    let mut s = stuck();
    let ticket = s.order(Verb::SwitchTo(id("c")));
    s.quiet();
    s.is("c", refuses());
    s.lose("c", Slot::Traffic);
    s.quiet();
    s.wait(secs(6));
    assert_eq!(s.active(), Some("a"));
    assert!(matches!(s.answer_to(ticket), Some(Err(_))));
    assert_eq!(s.machine.upcoming(), None);
}

/// Leaving would lead to b. Two targets that take turns would never be reached.
#[test]
fn leaving_does_not_hold_up_an_order_that_is_under_way() {
    let mut s = stuck();
    let ticket = s.order(Verb::SwitchTo(id("c")));
    s.quiet();
    s.order(Verb::SetEnabled(id("a"), false));
    s.quiet();
    assert_eq!(s.sent_ahead(), ["c"]);
    s.all_follow_to("c");
    assert_eq!(s.serving(), Some("c"));
    assert_eq!(s.answer_to(ticket), Some(Ok(())));
}
