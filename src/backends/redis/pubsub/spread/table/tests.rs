use super::*;
use ::redis::RedisError;

use crate::engine::backend::FaultKind;

/// Slots 0..=8191 are a's, the rest is b's.
const A: &str = "a";
const B: &str = "b";

fn at(host: &str) -> Address {
    Address::Tcp {
        host: host.to_owned(),
        port: 1,
    }
}

fn layout() -> Layout {
    Layout::of(vec![(0, 8191, at(A)), (8192, 16383, at(B))])
}

fn name(kind: Kind, bytes: &str) -> Name {
    Name {
        kind,
        bytes: bytes.as_bytes().into(),
    }
}

fn shard(bytes: &str) -> Name {
    name(Kind::ShardChannel, bytes)
}

fn add(name: &Name) -> Change {
    Change {
        verb: Verb::Add,
        name: name.clone(),
    }
}

fn remove(name: &Name) -> Change {
    Change {
        verb: Verb::Remove,
        name: name.clone(),
    }
}

/// Names whose slots are a's and b's.
fn of_a() -> Name {
    assert!(slot(b"bar") < 8192);
    shard("bar")
}

fn of_b() -> Name {
    assert!(slot(b"foo") >= 8192);
    shard("foo")
}

/// A table and the links it has asked for.
struct Scene {
    table: Table,
    now: Instant,
    version: u64,
    open: BTreeMap<u64, Address>,
    /// What each node is subscribed to.
    held: BTreeMap<Address, BTreeSet<Name>>,
    reports: Vec<String>,
    looks: Vec<Option<Address>>,
    told: Vec<(u64, u64)>,
}

impl Scene {
    /// At home on a.
    fn with(names: &[Name]) -> Self {
        let now = Instant::now();
        let mut scene = Self {
            table: Table::new(true, names.iter().cloned().collect(), 1, now),
            now,
            version: 1,
            open: BTreeMap::new(),
            held: BTreeMap::new(),
            reports: Vec::new(),
            looks: Vec::new(),
            told: Vec::new(),
        };
        scene.go();
        assert_eq!(scene.looks, [None]);
        scene.found();
        scene.confirm();
        assert_eq!(scene.said(), ["confirmed 1"]);
        scene
    }

    fn go(&mut self) {
        for step in self.table.settle(self.now) {
            match step {
                Step::Look { ask } => self.looks.push(ask),
                Step::Open { number, at, names } => {
                    assert!(!self.open.values().any(|open| *open == at), "twice");
                    self.held.insert(at.clone(), names);
                    self.open.insert(number, at);
                    self.told.push((number, 0));
                }
                Step::Tell {
                    number,
                    version,
                    changes,
                } => {
                    let held = self.held.get_mut(&self.open[&number]).unwrap();
                    for change in changes {
                        match change.verb {
                            Verb::Add => held.insert(change.name),
                            Verb::Remove => held.remove(&change.name),
                        };
                    }
                    self.told.push((number, version));
                }
                Step::Close { number } => {
                    let at = self.open.remove(&number).unwrap();
                    self.held.remove(&at);
                }
                Step::Report(report) => self.reports.push(match report {
                    Report::Confirmed { version, refused } if refused.is_empty() => {
                        format!("confirmed {version}")
                    }
                    Report::Confirmed { version, refused } => {
                        format!("confirmed {version} without {}", refused.len())
                    }
                    Report::Lost { since } => {
                        format!("lost {:?}", self.now.duration_since(since))
                    }
                    Report::Failed(_) => "failed".to_owned(),
                    Report::Left => "left".to_owned(),
                    Report::Moved { .. } => panic!("it is no link to a node"),
                }),
            }
        }
    }

    fn found(&mut self) {
        self.table.looked(Ok((at(A), layout())));
        self.go();
    }

    /// All links have done as they were told.
    fn confirm(&mut self) {
        let told = self.told.iter().map(|(number, _)| *number);
        for number in told.collect::<Vec<_>>() {
            self.confirm_by(number);
        }
    }

    fn confirm_by(&mut self, number: u64) {
        let told = self.told.extract_if(.., |(told, _)| *told == number);
        for (number, version) in told.collect::<Vec<_>>() {
            let refused = Vec::new();
            self.hear(number, Report::Confirmed { version, refused });
        }
    }

    fn hear(&mut self, number: u64, report: Report) {
        self.table.hear(number, report, self.now);
        self.go();
    }

    fn want(&mut self, changes: &[Change]) {
        self.version += 1;
        self.table.want(self.version, changes.to_vec(), self.now);
        self.go();
    }

    fn moved(&mut self, from: &str, name: &Name, to: Option<&str>, since: Option<Instant>) {
        // The link does not have it any more.
        self.held.get_mut(&at(from)).unwrap().remove(name);
        let (name, to) = (name.clone(), to.map(at));
        self.hear(self.to(from), Report::Moved { name, to, since });
    }

    fn to(&self, host: &str) -> u64 {
        let mut open = self.open.iter();
        *open.find(|(_, open)| **open == at(host)).unwrap().0
    }

    fn on(&self, host: &str) -> Vec<Name> {
        let held = self.held.get(&at(host)).into_iter().flatten();
        held.cloned().collect()
    }

    fn said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.reports)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.go();
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_shard_channel_is_where_its_slot_is_and_all_else_in_one_place() {
    let (plain, pattern) = (name(Kind::Channel, "foo"), name(Kind::Pattern, "f*"));
    let mut scene = Scene::with(&[of_a(), plain.clone()]);
    assert_eq!(scene.on(A), [plain.clone(), of_a()]);
    assert_eq!(scene.on(B), [], "it is not needed");
    scene.want(&[add(&of_b()), add(&pattern)]);
    assert_eq!(scene.on(A), [plain, pattern, of_a()]);
    assert_eq!(scene.on(B), [of_b()]);
    assert_eq!(scene.said(), [""; 0], "neither has answered");
    scene.confirm();
    assert_eq!(scene.said(), ["confirmed 2"]);
    // A node that is needed no longer is left once it has confirmed the end.
    scene.want(&[remove(&of_b())]);
    assert!(scene.held.contains_key(&at(B)));
    scene.confirm();
    assert_eq!(scene.said(), ["confirmed 3"]);
    assert!(!scene.held.contains_key(&at(B)));
    // What the others are at home on is never left.
    scene.want(&[remove(&of_a())]);
    scene.confirm();
    assert!(scene.held.contains_key(&at(A)));
}

#[test]
fn without_shards_all_is_in_one_place_to_be_refused_there() {
    let now = Instant::now();
    let mut table = Table::new(false, [of_a(), of_b()].into(), 1, now);
    table.settle(now);
    table.looked(Ok((at(A), layout())));
    let opened: Vec<_> = table
        .settle(now)
        .into_iter()
        .filter_map(|step| match step {
            Step::Open { at, names, .. } => Some((at, names.len())),
            _ => None,
        })
        .collect();
    assert_eq!(opened, [(at(A), 2)]);
}

#[test]
fn a_channel_that_is_sent_away_unheard_goes_where_it_is_sent_without_a_gap() {
    let mut scene = Scene::with(&[]);
    scene.want(&[add(&of_a())]);
    scene.moved(A, &of_a(), Some("c"), None);
    assert_eq!(scene.on("c"), [of_a()]);
    scene.confirm();
    assert_eq!(scene.said(), ["confirmed 2"]);
    // What is in the same slot goes there at once; nothing had to be looked up.
    let too = shard("{bar}too");
    scene.want(&[add(&too)]);
    assert_eq!(scene.on("c"), [of_a(), too]);
    assert_eq!(scene.looks.len(), 1);
}

#[test]
fn a_subscription_that_ends_is_a_gap_and_the_node_that_ended_it_is_asked() {
    let mut scene = Scene::with(&[of_a(), of_b()]);
    let since = scene.now;
    scene.now += ms(5);
    scene.moved(B, &of_b(), None, Some(since));
    assert_eq!(scene.said(), ["lost 5ms"]);
    assert_eq!(scene.looks, [None, Some(at(B))]);
    let moved = Layout::of(vec![(0, 8191, at(A)), (8192, 16383, at("c"))]);
    scene.table.looked(Ok((at(B), moved)));
    scene.go();
    assert_eq!(scene.on("c"), [of_b()]);
    assert_eq!(scene.on(A), [of_a()], "it stays, and at home");
    assert_eq!(scene.said(), [""; 0]);
    scene.confirm();
    assert_eq!(scene.said(), ["confirmed 1"], "it holds again");
    assert!(!scene.held.contains_key(&at(B)));
}

/// During a move each of two nodes may think that it is the other's.
#[test]
fn two_nodes_that_send_a_channel_to_each_other_are_asked_less_and_less_often() {
    let mut scene = Scene::with(&[of_b()]);
    let mut turns = 0;
    let (mut here, mut there) = (B, "c");
    let end = scene.now + Duration::from_secs(5);
    while scene.now < end {
        if scene.on(here).contains(&of_b()) {
            let number = scene.to(here);
            scene.moved(here, &of_b(), Some(there), None);
            scene.confirm_by(number);
            (here, there) = (there, here);
            turns += 1;
        }
        scene.pass(ms(1));
    }
    assert!((8..=14).contains(&turns), "{turns}");
    assert!(scene.table.wake().is_some());
    scene.pass(LONGEST_PAUSE);
    scene.confirm();
    assert_eq!(scene.said().last().unwrap(), "confirmed 1");
    // All is forgotten.
    scene.moved(here, &of_b(), Some(there), None);
    assert_eq!(scene.on(there), [of_b()]);
}

#[test]
fn a_lost_node_takes_its_own_along_and_no_others() {
    let mut scene = Scene::with(&[of_a(), of_b()]);
    let since = scene.now;
    scene.hear(scene.to(B), Report::Lost { since });
    assert_eq!(scene.said(), ["lost 0ns"]);
    assert_eq!(scene.on(A), [of_a()]);
    assert_eq!(scene.looks.len(), 2);
    // By the word of the others it is there still.
    scene.found();
    let fault = || Fault::new(FaultKind::Unreachable, "refused");
    scene.hear(scene.to(B), Report::Failed(fault()));
    assert_eq!(scene.said(), ["failed"], "nothing more is missed");
    assert_eq!(scene.looks.len(), 2, "not at once again");
    let wake = scene.table.wake().unwrap();
    assert!(wake > scene.now && wake <= scene.now + ms(20));
    scene.pass(ms(20));
    assert_eq!(scene.looks.len(), 3);
    let replaced = Layout::of(vec![(0, 8191, at(A)), (8192, 16383, at("c"))]);
    scene.table.looked(Ok((at(A), replaced)));
    scene.go();
    assert_eq!(scene.on("c"), [of_b()]);
    scene.confirm();
    assert_eq!(scene.said(), ["confirmed 1"]);
}

#[test]
fn a_lost_home_is_another_one_next() {
    let plain = name(Kind::Channel, "news");
    let mut scene = Scene::with(&[plain.clone(), of_b()]);
    scene.hear(scene.to(A), Report::Lost { since: scene.now });
    scene.table.looked(Ok((at(B), layout())));
    scene.go();
    assert_eq!(scene.on(B), [plain, of_b()]);
    assert!(!scene.held.contains_key(&at(A)), "nothing is there");
    scene.confirm();
    assert_eq!(scene.said(), ["lost 0ns", "confirmed 1"]);
}

#[test]
fn slots_without_a_node_are_waited_for() {
    let mut scene = Scene::with(&[of_a()]);
    let half = || Ok((at(A), Layout::of(vec![(0, 8191, at(A))])));
    scene.hear(scene.to(A), Report::Lost { since: scene.now });
    scene.table.looked(half());
    scene.go();
    scene.want(&[add(&of_b())]);
    for _ in 0..3 {
        scene.pass(LONGEST_PAUSE);
        scene.table.looked(half());
        scene.go();
    }
    scene.confirm();
    assert_eq!(scene.said(), ["lost 0ns"]);
    scene.pass(LONGEST_PAUSE);
    scene.found();
    scene.confirm();
    assert_eq!(scene.said(), ["confirmed 2"]);
}

#[test]
fn what_a_node_refuses_is_told_once_all_have_answered() {
    let mut scene = Scene::with(&[]);
    scene.want(&[add(&of_a()), add(&of_b())]);
    let error = || RedisError::from((::redis::ErrorKind::Client, "refused"));
    let refused = |name| vec![(name, error())];
    let told = std::mem::take(&mut scene.told);
    let (a, b) = (scene.to(A), scene.to(B));
    let version = |of| told.iter().rfind(|(number, _)| *number == of).unwrap().1;
    let report = |of, refused| Report::Confirmed {
        version: version(of),
        refused,
    };
    scene.hear(a, report(a, refused(of_a())));
    assert_eq!(scene.said(), [""; 0]);
    scene.hear(b, report(b, Vec::new()));
    assert_eq!(scene.said(), ["confirmed 2 without 1"]);
    // Tried again in vain.
    scene.hear(a, report(a, refused(of_a())));
    assert_eq!(scene.said(), ["confirmed 2 without 1"]);
    scene.want(&[remove(&of_a())]);
    scene.confirm();
    assert_eq!(scene.said(), ["confirmed 3"]);
}

#[test]
fn it_has_left_when_all_have_and_who_is_called_back_says_what_was_missed() {
    let mut scene = Scene::with(&[of_a(), of_b()]);
    scene.table.leave();
    scene.go();
    scene.hear(scene.to(B), Report::Left);
    assert_eq!(scene.said(), [""; 0], "one of two");
    scene.hear(scene.to(A), Report::Left);
    assert_eq!(scene.said(), ["left"]);

    let mut scene = Scene::with(&[of_a(), of_b()]);
    scene.table.leave();
    scene.hear(scene.to(B), Report::Left);
    scene.now += ms(7);
    scene.table.stay();
    scene.go();
    assert_eq!(scene.said(), ["lost 7ms"]);
    scene.found();
    assert_eq!(scene.on(B), [of_b()]);
    scene.confirm();
    assert_eq!(scene.said(), ["confirmed 1"]);
}
