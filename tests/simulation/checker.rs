//! Whether a history keeps the promises. Each check is a function of the history alone, and its name
//! says which promise of `docs/src/guarantees.md` it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use multidb::testing::history::{Ledger, Outcome};
use multidb::{CircuitState, Event, Reason};

use crate::history::{Call, Entry, Heard, History, Op};
use crate::plan::{Act, Order, ms};
use crate::scene::LONGEST_WAIT;
use crate::support::load::Said;

/// Every broken promise, each with its name.
pub(crate) fn violations(history: &History) -> Vec<String> {
    let checks: [(&str, Check); 13] = [
        ("nothing is lost, nothing runs twice", nothing_lost_or_twice),
        ("no update is lost", no_update_is_lost),
        ("no element is swallowed", no_element_is_swallowed),
        ("counts add up", counts_add_up),
        (
            "calls go only where the client serves from",
            calls_go_where_it_serves,
        ),
        ("switches are in order", switches_are_in_order),
        ("every call ends by its deadline", calls_end),
        (
            "nobody is blamed for another's fault",
            nobody_innocent_is_blamed,
        ),
        ("all is well again after the healing", recovers),
        (
            "a given-up call disturbs no other",
            replies_belong_to_their_calls,
        ),
        ("no message comes twice", no_message_comes_twice),
        ("whoever may have missed a message is told", gaps_are_told),
        ("nothing is left behind", nothing_is_left),
    ];
    let mut found = Vec::new();
    for (promise, check) in checks {
        let mut problems = check(history);
        if problems.len() > SHOWN {
            let more = format!("and {} more", problems.len() - SHOWN);
            problems.truncate(SHOWN);
            problems.push(more);
        }
        found.extend(
            problems
                .into_iter()
                .map(|problem| format!("{promise}: {problem}")),
        );
    }
    found
}

const SHOWN: usize = 5;

type Check = fn(&History) -> Vec<String>;

/// I1, I2.
fn nothing_lost_or_twice(history: &History) -> Vec<String> {
    let ledger = Ledger::new();
    for (_, call) in history.calls() {
        let Some(token) = call.op.token() else {
            continue;
        };
        ledger.attempt(token);
        let outcome = match &call.said {
            None => continue,
            Some(Said::Done(length)) => Outcome::Acked {
                database: history
                    .acknowledged_by(token, *length)
                    .unwrap_or("(no database)")
                    .to_owned(),
            },
            Some(Said::Unknown(_)) => Outcome::Unknown,
            Some(Said::NotRun(_)) => Outcome::NotSent,
            Some(Said::Refused(_)) => Outcome::NotExecuted,
            Some(Said::Other(_)) => Outcome::Failed,
        };
        ledger.record(token, outcome);
    }
    let found = history.found.iter();
    let found = found.map(|(name, found)| (name.clone(), found.tokens.clone()));
    let report = ledger.check(&found.collect());
    let mut problems = Vec::new();
    if !report.is_clean() {
        problems.push(report.to_string());
    }
    if report.told.acked == 0 {
        problems.push("not one write was acknowledged".to_owned());
    }
    problems
}

/// I2, for commands without a name of their own.
fn counts_add_up(history: &History) -> Vec<String> {
    let (mut done, mut doubtful) = (0, 0);
    for (_, call) in history.calls().filter(|(_, call)| call.op.counts()) {
        match &call.said {
            Some(Said::Done(_)) => done += 1,
            Some(Said::NotRun(_) | Said::Refused(_)) => {}
            Some(Said::Unknown(_) | Said::Other(_)) | None => doubtful += 1,
        }
    }
    let counted: i64 = history.found.values().map(|found| found.counter).sum();
    match (done..=done + doubtful).contains(&counted) {
        true => Vec::new(),
        false => vec![format!(
            "counted {counted}; {done} were acknowledged and {doubtful} are in doubt"
        )],
    }
}

/// A raise that was written is the only one that wrote its number, on the database that it read.
fn no_update_is_lost(history: &History) -> Vec<String> {
    let is_raise = |call: &&Call| call.op == Op::Raise;
    let (mut done, mut doubtful) = (0, 0);
    for call in history.calls().map(|(_, call)| call).filter(is_raise) {
        match &call.said {
            Some(Said::Done(_)) => done += 1,
            // Whatever it failed with, it may have failed after an attempt that is in doubt.
            Some(_) | None => doubtful += 1,
        }
    }
    let raised: i64 = history.found.values().map(|found| found.raised).sum();
    match (done..=done + doubtful).contains(&raised) {
        true => Vec::new(),
        false => vec![format!(
            "raised to {raised} in all; {done} raises were written and {doubtful} are in doubt"
        )],
    }
}

/// What was put is in a queue, or was taken, once; or went with a taker who could not know.
fn no_element_is_swallowed(history: &History) -> Vec<String> {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for token in history.found.values().flat_map(|found| &found.queue) {
        *places.entry(token).or_default() += 1;
    }
    let (mut put, mut tried, mut doubtful) = (BTreeSet::new(), BTreeSet::new(), 0);
    for (_, call) in history.calls() {
        match (&call.op, &call.said) {
            (Op::Take(Some(token)), _) => *places.entry(token).or_default() += 1,
            (Op::Take(None), None | Some(Said::Unknown(_) | Said::Other(_))) => doubtful += 1,
            (Op::Put(token), said) => {
                tried.insert(token.as_str());
                if let Some(Said::Done(_)) = said {
                    put.insert(token.as_str());
                }
            }
            _ => {}
        }
    }
    let mut problems = Vec::new();
    for (token, count) in &places {
        if *count > 1 {
            problems.push(format!("{token} is there {count} times"));
        }
        if !tried.contains(token) {
            problems.push(format!("{token} was never put"));
        }
    }
    let missing: Vec<_> = put
        .iter()
        .filter(|token| !places.contains_key(*token))
        .collect();
    if missing.len() > doubtful {
        problems.push(format!(
            "{missing:?} are nowhere, and only {doubtful} takers are in doubt"
        ));
    }
    problems
}

/// I3, I11: what a database executed was begun or under way while the client served from it, with its
/// circuit closed or by force, and as a member.
fn calls_go_where_it_serves(history: &History) -> Vec<String> {
    let serving = Serving::of(history);
    let mut executed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, found) in &history.found {
        for token in &found.tokens {
            executed.entry(token).or_default().push(name);
        }
    }
    let mut problems = Vec::new();
    for (ended, call) in history.calls() {
        let Some(token) = call.op.token() else {
            continue;
        };
        for name in executed.get(token).into_iter().flatten() {
            if !serving.overlaps(name, call.began, ended + history.precision) {
                problems.push(format!(
                    "{token} ran on {name} and was under way from {:?} to {ended:?}",
                    call.began
                ));
            }
        }
    }
    problems
}

/// When the client served from which database, by its own events.
struct Serving(BTreeMap<String, Vec<(Duration, Duration)>>);

impl Serving {
    fn of(history: &History) -> Self {
        let mut spans: BTreeMap<String, Vec<(Duration, Duration)>> = BTreeMap::new();
        let mut active = Some(history.first.clone());
        let (mut open, mut forced, mut gone) = (BTreeSet::new(), false, BTreeSet::new());
        let mut since = Some(Duration::ZERO);
        for (at, event, _) in history.events() {
            match event {
                Event::ActiveChanged { to, reason, .. } => {
                    if let (Some(name), Some(since)) = (&active, since.take()) {
                        spans.entry(name.clone()).or_default().push((since, at));
                    }
                    forced = *reason == Reason::Forced;
                    active = Some(to.to_string());
                }
                Event::CircuitChanged { database, to, .. } => {
                    match to {
                        CircuitState::Closed => open.remove(database.as_str()),
                        CircuitState::Open | CircuitState::HalfOpen => {
                            open.insert(database.as_str())
                        }
                    };
                }
                Event::Removed { database } => drop(gone.insert(database.as_str())),
                Event::Added { database, .. } => {
                    gone.remove(database.as_str());
                    // Another member of the same name begins with a closed circuit.
                    open.remove(database.as_str());
                }
                _ => continue,
            }
            let name = active.as_deref().unwrap_or_default();
            let serves = (forced || !open.contains(name)) && !gone.contains(name);
            match (serves, since) {
                (true, None) => since = Some(at),
                (false, Some(begun)) => {
                    spans.entry(name.to_owned()).or_default().push((begun, at));
                    since = None;
                }
                _ => {}
            }
        }
        if let (Some(name), Some(since)) = (active, since) {
            spans.entry(name).or_default().push((since, Duration::MAX));
        }
        // Who is active already and is forced serves whatever its circuit says, without a switch.
        for (at, entry) in &history.entries {
            if let Entry::Acted(Act::Operate(member, Order::Force(time)), None) = entry {
                let name = format!("{}:6379", history.plan.members[*member].name);
                spans.entry(name).or_default().push((*at, *at + ms(*time)));
            }
        }
        Self(spans)
    }

    fn overlaps(&self, name: &str, from: Duration, to: Duration) -> bool {
        let spans = self.0.get(name).into_iter().flatten();
        let mut spans = spans.copied();
        spans.any(|(since, until)| since <= to && from <= until)
    }
}

/// I4: each switch has the next generation, begins where the one before ended, was shown before it was
/// told, and leads to who may serve; none is a fallback to somebody lighter.
fn switches_are_in_order(history: &History) -> Vec<String> {
    let mut problems = Vec::new();
    let mut last: Option<(u64, &str)> = None;
    let mut gone = BTreeSet::new();
    for (at, event, shown) in history.events() {
        if let Event::Removed { database } = event {
            gone.insert(database.as_str());
        }
        if let Event::Lagged { .. } = event {
            problems.push(format!("at {at:?}: {event}"));
        }
        let Event::ActiveChanged {
            generation,
            from,
            to,
            reason,
            ..
        } = event
        else {
            continue;
        };
        let origin = from.as_ref().map(|id| id.as_str());
        if let Some((before, left)) = last
            && (*generation != before + 1 || origin != Some(left))
        {
            problems.push(format!(
                "at {at:?}: after generation {before} on {left}: {event}"
            ));
        }
        // A database that left and came back is another member under the same name.
        if origin == Some(to.as_str()) && !gone.remove(to.as_str()) {
            problems.push(format!("at {at:?}: from {to} to itself"));
        }
        if shown.generation < *generation {
            problems.push(format!("at {at:?}: told before it was shown: {event}"));
        }
        last = Some((*generation, to.as_str()));
        if shown.generation != *generation {
            continue;
        }
        if let Some(member) = shown.member(to.as_str())
            && *reason != Reason::Forced
            && !member.enabled
        {
            problems.push(format!("at {at:?}: to a disabled database: {event}"));
        }
        let weight = |id: &str| shown.member(id).map(|m| m.weight.value());
        if *reason == Reason::Fallback
            && let Some((from, to)) = origin.and_then(weight).zip(weight(to.as_str()))
            && to <= from
        {
            problems.push(format!("at {at:?}: back from weight {from} to {to}"));
        }
    }
    problems
}

/// I6.
fn calls_end(history: &History) -> Vec<String> {
    // Two ticks of the sweep, and what a task that was woken takes to be told.
    let bound = history.plan.config.calls.deadline + ms(10) + history.precision * 2;
    let mut problems = Vec::new();
    for (ended, call) in history.calls() {
        let took = ended - call.began;
        let bound = match call.op {
            // Several calls, as many as it takes.
            Op::Raise => continue,
            // How long it was to wait, and then the time of a call to find out.
            Op::Take(_) => bound + LONGEST_WAIT,
            _ => bound,
        };
        if took > bound {
            problems.push(format!("{:?} took {took:?}, more than {bound:?}", call.op));
        }
    }
    problems
}

/// I9: no circuit opens and nobody is left without a fault of that database or an order.
fn nobody_innocent_is_blamed(history: &History) -> Vec<String> {
    let mut problems = Vec::new();
    for (at, event, _) in history.events() {
        let (id, to) = match event {
            Event::CircuitChanged { database, to, .. } => (database, to),
            _ => continue,
        };
        let Some(member) = history.plan.index(id.as_str().trim_end_matches(":6379")) else {
            problems.push(format!("at {at:?}: unheard of: {event}"));
            continue;
        };
        if *to == CircuitState::Open && !had_reason(history, member, at) {
            problems.push(format!("at {at:?}: {event}"));
        }
    }
    problems
}

/// Whether anything was done to a member, or is over, not too long before `at`.
fn had_reason(history: &History, member: usize, at: Duration) -> bool {
    let mut steps = history.plan.steps.iter();
    steps.any(|step| match step.act {
        Act::Operate(whom, Order::ForceOpen) => whom == member && step.at <= at,
        Act::Break(whom, fault) if whom == member && step.at <= at => {
            let end = history.plan.steps.iter().find(|other| {
                other.at >= step.at
                    && matches!(other.act, Act::Mend(m, f) if m == member && f == fault)
            });
            at <= end.map_or(step.at, |end| end.at) + AFTERMATH
        }
        _ => false,
    })
}

/// How long a fault that is over may still have consequences: a connection that it killed is found
/// dead by a ping that is due in 2 s and has 1.5 s, three times.
const AFTERMATH: Duration = Duration::from_secs(8);

/// I10: after the healing the heaviest serves, within its time, and from then on every call succeeds.
fn recovers(history: &History) -> Vec<String> {
    let settled = history.entries.iter().find_map(|(at, entry)| match entry {
        Entry::Settled(in_time, shown) => Some((*at, *in_time, shown)),
        _ => None,
    });
    let Some((at, in_time, shown)) = settled else {
        return vec!["the history ends before".to_owned()];
    };
    let mut problems = Vec::new();
    if !in_time {
        problems.push(format!("not in time: {shown}"));
    }
    let mut done = 0;
    for (ended, call) in history.calls().filter(|(_, call)| call.began >= at) {
        match &call.said {
            Some(Said::Done(_)) => done += 1,
            Some(said) => problems.push(format!("at {ended:?}: {:?} is {said}", call.op)),
            None => {}
        }
    }
    if done == 0 {
        problems.push("not one call succeeded".to_owned());
    }
    problems
}

/// I13.
fn replies_belong_to_their_calls(history: &History) -> Vec<String> {
    let wrong = history
        .calls()
        .filter(|(_, call)| call.op == Op::Echo(false));
    wrong
        .filter(|(_, call)| matches!(call.said, Some(Said::Done(_))))
        .map(|(at, call)| format!("caller {} got somebody else's reply at {at:?}", call.caller))
        .collect()
}

fn no_message_comes_twice(history: &History) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let messages = history.heard().filter_map(|(at, heard)| match heard {
        Heard::Message(token) => Some((at, token)),
        Heard::Gap(_) => None,
    });
    messages
        .filter(|(_, token)| !seen.insert(*token))
        .map(|(at, token)| format!("{token} again at {at:?}"))
        .collect()
}

/// What was acknowledged to its publisher is read, or was published in a gap that the reader is told of.
fn gaps_are_told(history: &History) -> Vec<String> {
    let mut heard = BTreeSet::new();
    let mut gaps = Vec::new();
    for (at, what) in history.heard() {
        match what {
            Heard::Message(token) => drop(heard.insert(token.as_str())),
            Heard::Gap(Some(gap)) => gaps.push((at.saturating_sub(*gap + UNREAD), at + UNREAD)),
            Heard::Gap(None) => {}
        }
    }
    let mut problems = Vec::new();
    for (ended, call) in history.calls() {
        let (Op::Publish(token), Some(Said::Done(receivers))) = (&call.op, &call.said) else {
            continue;
        };
        let told = gaps
            .iter()
            .any(|(from, to)| call.began <= *to && ended >= *from);
        if !heard.contains(token.as_str()) && !told {
            problems.push(format!(
                "{token}, published from {:?} to {ended:?} to {receivers}, and never read",
                call.began
            ));
        }
    }
    problems
}

/// A message may be on its way when its connection is cut: it was published so long before at most.
const UNREAD: Duration = Duration::from_millis(100);

/// I5, I12.
fn nothing_is_left(history: &History) -> Vec<String> {
    let mut problems = Vec::new();
    let (most, left) = history.connections;
    if left > 0 || history.tasks_left > 0 {
        problems.push(format!(
            "{left} connections and {} tasks outlive the client",
            history.tasks_left
        ));
    }
    // Of each member one for traffic, one for probes, and some being made anew; and private ones: of
    // callers who take or raise, and those kept for the next who does.
    let bound = history.plan.members.len() * CONNECTIONS + history.plan.callers + SPARE;
    if most > bound {
        problems.push(format!("{most} connections at once, more than {bound}"));
    }
    problems
}

const CONNECTIONS: usize = 6;
const SPARE: usize = 8;
