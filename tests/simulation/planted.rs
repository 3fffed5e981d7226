//! The checker finds what is planted in an honest history, and nothing else.

use std::time::Duration;

use multidb::{CircuitState, DatabaseId, Event, Reason};

use crate::checker::violations;
use crate::history::{Entry, Heard, History, Op};
use crate::memory;
use crate::plan::{Plan, ms};
use crate::support::load::Said;

/// A disaster in which the client switched, some calls are in doubt, and somebody is innocent.
fn honest() -> History {
    let history = (0..100).map(memory::run).find(|history| {
        let mut calls = history.calls();
        switches(history) >= 2
            && calls.any(|(_, call)| matches!(call.said, Some(Said::Unknown(_))))
            && history.plan.members.iter().any(|member| member.innocent)
    });
    let history = history.expect("one in a hundred is like that");
    assert_eq!(violations(&history), [] as [String; 0]);
    history
}

fn switches(history: &History) -> usize {
    let is_switch = |event: &Event| matches!(event, Event::ActiveChanged { .. });
    history
        .events()
        .filter(|(_, event, _)| is_switch(event))
        .count()
}

/// Plants something and expects to be told of this promise, and of no other.
#[track_caller]
fn breaks(promise: &str, plant: impl FnOnce(&mut History)) {
    let mut history = honest();
    plant(&mut history);
    let found = violations(&history);
    assert!(!found.is_empty(), "nothing was found");
    for violation in found {
        assert!(violation.starts_with(promise), "{violation}");
    }
}

/// A token that was acknowledged, and the place that it has.
fn acknowledged(history: &History) -> (String, String) {
    let mut calls = history.calls();
    let found = calls.find_map(|(_, call)| match (&call.op, &call.said) {
        (Op::Push(token), Some(Said::Done(length))) => {
            let name = history.acknowledged_by(token, *length)?;
            Some((token.clone(), name.to_owned()))
        }
        _ => None,
    });
    found.expect("some push was acknowledged")
}

fn tokens<'a>(history: &'a mut History, name: &str) -> &'a mut Vec<String> {
    &mut history.found.get_mut(name).expect("a database").tokens
}

/// The first call that fits, to be changed.
fn call(
    history: &mut History,
    which: impl Fn(&Op, Option<&Said>) -> bool,
    change: impl FnOnce(&mut Duration, &mut crate::history::Call),
) {
    let entry = history
        .entries
        .iter_mut()
        .find_map(|(at, entry)| match entry {
            Entry::Call(call) if which(&call.op, call.said.as_ref()) => Some((at, call)),
            _ => None,
        });
    let (at, call) = entry.expect("such a call");
    change(at, call);
}

fn is_done(said: Option<&Said>) -> bool {
    matches!(said, Some(Said::Done(_)))
}

const LOST_OR_TWICE: &str = "nothing is lost, nothing runs twice";

#[test]
fn an_acknowledged_write_that_is_not_there() {
    breaks(LOST_OR_TWICE, |history| {
        let (token, name) = acknowledged(history);
        // Its place stays, so that those behind it keep theirs.
        for found in tokens(history, &name) {
            if *found == token {
                "0.0".clone_into(found);
            }
        }
    });
}

#[test]
fn a_write_that_is_there_twice() {
    breaks(LOST_OR_TWICE, |history| {
        let (token, name) = acknowledged(history);
        tokens(history, &name).push(token);
    });
}

#[test]
fn a_write_that_is_there_and_was_said_not_to_have_run() {
    breaks(LOST_OR_TWICE, |history| {
        let which = |op: &Op, said: Option<&Said>| matches!(op, Op::Push(_)) && is_done(said);
        call(history, which, |_, call| {
            call.said = Some(Said::NotRun("planted"))
        });
    });
}

#[test]
fn a_count_that_is_too_high() {
    breaks("counts add up", |history| {
        let doubtful = history.calls().count() as i64;
        let mut found = history.found.values_mut();
        found.next().expect("a database").counter += doubtful;
    });
}

#[test]
fn a_count_that_is_too_low() {
    breaks("counts add up", |history| {
        for found in history.found.values_mut() {
            found.counter = 0;
        }
    });
}

#[test]
fn an_update_that_another_one_overwrote() {
    breaks("no update is lost", |history| {
        for found in history.found.values_mut() {
            found.raised = 0;
        }
    });
}

const SWALLOWED: &str = "no element is swallowed";

#[test]
fn elements_that_are_gone() {
    breaks(SWALLOWED, |history| {
        for (_, entry) in &mut history.entries {
            if let Entry::Call(call) = entry
                && let Op::Take(taken) = &mut call.op
            {
                *taken = None;
            }
        }
    });
}

#[test]
fn an_element_that_two_have() {
    breaks(SWALLOWED, |history| {
        let taken = history.calls().find_map(|(_, call)| match &call.op {
            Op::Take(Some(token)) => Some(token.clone()),
            _ => None,
        });
        let mut found = history.found.values_mut();
        let queue = &mut found.next().expect("a database").queue;
        queue.push(taken.expect("something was taken"));
    });
}

#[test]
fn a_call_to_a_database_that_does_not_serve() {
    breaks("calls go only where the client serves from", |history| {
        // Of a database that is left, and not come back to, a write that begins long after.
        let mut spans = history.events().filter_map(|(at, event, _)| match event {
            Event::ActiveChanged { from, .. } => Some((at, from.clone())),
            _ => None,
        });
        let (left_at, from) = spans.next().expect("a switch");
        let next = spans.next().map_or(Duration::MAX, |(at, _)| at);
        drop(spans);
        let from = from.expect("not the first").to_string();
        let on_it = history.found[&from].tokens.clone();
        let which = |op: &Op, said: Option<&Said>| {
            is_done(said)
                && op
                    .token()
                    .is_some_and(|token| on_it.iter().any(|t| t == token))
        };
        assert!(next - left_at > ms(20), "time enough for a call");
        call(history, which, |at, call| {
            call.began = left_at + ms(8);
            *at = left_at + ms(9);
        });
    });
}

const IN_ORDER: &str = "switches are in order";

/// The second switch, to be changed.
fn second_switch(history: &mut History, change: impl FnOnce(&mut Event)) {
    let mut switches = history
        .entries
        .iter_mut()
        .filter_map(|(_, entry)| match entry {
            Entry::Event(event @ Event::ActiveChanged { .. }, _) => Some(event),
            _ => None,
        });
    change(switches.nth(1).expect("two switches"));
}

#[test]
fn a_generation_that_is_left_out() {
    breaks(IN_ORDER, |history| {
        second_switch(history, |event| {
            if let Event::ActiveChanged { generation, .. } = event {
                *generation += 1;
            }
        });
    });
}

#[test]
fn a_switch_from_somewhere_else() {
    breaks(IN_ORDER, |history| {
        second_switch(history, |event| {
            if let Event::ActiveChanged { from, .. } = event {
                *from = Some(DatabaseId::new("elsewhere").expect("an id"));
            }
        });
    });
}

#[test]
fn a_listener_that_missed_something() {
    breaks(IN_ORDER, |history| {
        let shown = history.events().next().map(|(_, _, shown)| shown.clone());
        let shown = std::sync::Arc::new(shown.expect("an event"));
        let lagged = Event::Lagged { missed: 3 };
        history.entries.push((ms(1), Entry::Event(lagged, shown)));
    });
}

#[test]
fn a_message_that_comes_twice() {
    breaks("no message comes twice", |history| {
        let is_message = |entry: &Entry| matches!(entry, Entry::Heard(Heard::Message(_)));
        let mut entries = history.entries.iter();
        let again = entries.find(|(_, entry)| is_message(entry));
        let again = again.expect("a message").clone();
        history.entries.push(again);
    });
}

#[test]
fn a_gap_that_nobody_was_told_of() {
    breaks("whoever may have missed a message is told", |history| {
        // The last message of all: by then all is well.
        let is_message = |entry: &Entry| matches!(entry, Entry::Heard(Heard::Message(_)));
        let mut entries = history.entries.iter();
        let last = entries.rposition(|(_, entry)| is_message(entry));
        history.entries.remove(last.expect("a message"));
    });
}

#[test]
fn a_call_that_ends_after_its_deadline() {
    breaks("every call ends by its deadline", |history| {
        let late = history.plan.config.calls.deadline + ms(50);
        let which = |op: &Op, said: Option<&Said>| *op == Op::Get && is_done(said);
        call(history, which, |at, call| *at = call.began + late);
    });
}

#[test]
fn a_circuit_that_opens_without_a_fault() {
    breaks("nobody is blamed for another's fault", |history| {
        let innocent = history.plan.members.iter().find(|member| member.innocent);
        let name = format!("{}:6379", innocent.expect("somebody").name);
        // After everything, so that nothing else is wrong with it.
        let shown = history.events().next().map(|(_, _, shown)| shown.clone());
        let event = Event::CircuitChanged {
            database: DatabaseId::new(&name).expect("an id"),
            failure_domain: name,
            from: CircuitState::Closed,
            to: CircuitState::Open,
            reason: Reason::HealthCheck,
            cause: "planted".to_owned(),
            dwell: None,
        };
        let (end, _) = history.entries.last().expect("an end");
        let shown = std::sync::Arc::new(shown.expect("an event"));
        history
            .entries
            .push((*end + ms(1), Entry::Event(event, shown)));
    });
}

const RECOVERS: &str = "all is well again after the healing";

#[test]
fn a_client_that_does_not_recover() {
    breaks(RECOVERS, |history| {
        for (_, entry) in &mut history.entries {
            if let Entry::Settled(in_time, _) = entry {
                *in_time = false;
            }
        }
    });
}

#[test]
fn a_call_that_fails_although_all_is_well() {
    breaks(RECOVERS, |history| {
        let settled = history
            .entries
            .iter()
            .position(|(_, e)| matches!(e, Entry::Settled(..)));
        let settled = history.entries[settled.expect("the end")].0;
        let after = history
            .entries
            .iter_mut()
            .find_map(|(_, entry)| match entry {
                Entry::Call(call) if call.op == Op::Get && call.began > settled => Some(call),
                _ => None,
            });
        after.expect("a read").said = Some(Said::Unknown("planted"));
    });
}

#[test]
fn a_reply_to_somebody_else() {
    breaks("a given-up call disturbs no other", |history| {
        let which = |op: &Op, said: Option<&Said>| *op == Op::Echo(true) && is_done(said);
        call(history, which, |_, call| call.op = Op::Echo(false));
    });
}

#[test]
fn a_connection_or_a_task_that_is_left() {
    const LEFT: &str = "nothing is left behind";
    breaks(LEFT, |history| history.connections.1 = 1);
    breaks(LEFT, |history| history.tasks_left = 1);
    breaks(LEFT, |history| history.connections.0 = 1000);
}

#[test]
fn plans_are_drawn_from_their_seeds_alone() {
    let text = |seed| format!("{:?}", Plan::draw(seed));
    assert_eq!(text(7), text(7));
    assert_ne!(text(7), text(8));
}
