//! The backend: connections that ask the script what to do.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use super::work::{ScriptError, Work};
use super::{Act, Asked, OnCall, Part, Script};
use crate::engine::backend::{
    Backend, Class, Depth, Fault, FaultKind, LostSignal, Mark, Meter, Purpose, Verdict, Wiring,
};
use crate::engine::database::{Database, DatabaseId};

/// A backend whose databases are [`Script`]s.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scripted;

/// A connection to a [`Script`]; clones share it.
#[derive(Clone)]
pub struct ScriptHandle(pub(super) Arc<Connection>);

pub(super) struct Connection {
    pub(super) purpose: Purpose,
    pub(super) number: u64,
    database: DatabaseId,
    script: Script,
    meter: Arc<Meter>,
    lost: LostSignal,
    over: CancellationToken,
    muted: AtomicBool,
    marked: bool,
}

/// Names a connection of a script.
struct ScriptMark(u64);

impl Backend for Scripted {
    type Endpoint = Script;
    type Handle = ScriptHandle;
    type Error = ScriptError;

    async fn connect(
        &self,
        database: &Database<Script>,
        wiring: Wiring,
    ) -> Result<ScriptHandle, Fault> {
        let script = database.endpoint();
        let (number, marked) = {
            let mut part = script.lock();
            part.next_connection += 1;
            (part.next_connection, part.marked)
        };
        script.note(number, Asked::Connect(wiring.purpose));
        wiring.meter.arm();
        match script.act(|part| part.connect_act(wiring.purpose)).await {
            Some(answer) => answer?,
            None => return Err(Fault::new(FaultKind::Lost, "connection lost")),
        }
        let connection = Arc::new(Connection {
            purpose: wiring.purpose,
            number,
            database: database.id().clone(),
            script: script.clone(),
            meter: wiring.meter,
            lost: wiring.lost,
            over: CancellationToken::new(),
            muted: AtomicBool::new(false),
            marked,
        });
        let known = Arc::downgrade(&connection);
        script.lock().connections.push(known);
        Ok(ScriptHandle(connection))
    }

    async fn check(&self, handle: &ScriptHandle, depth: Depth) -> Verdict {
        let connection = &handle.0;
        connection.note(Asked::Check(depth));
        let answer = connection.ask(move |part| part.check_act(depth)).await;
        answer.unwrap_or_else(Verdict::Unhealthy)
    }

    fn abort(&self, handle: &ScriptHandle) {
        if !handle.0.is_over() {
            handle.0.note(Asked::Abort);
        }
        handle.0.end();
    }

    fn mark(&self, handle: &ScriptHandle) -> Option<Mark> {
        let marked = handle.0.marked;
        marked.then(|| Arc::new(ScriptMark(handle.0.number)) as Mark)
    }

    async fn fence(&self, handle: &ScriptHandle, marks: Vec<Mark>) -> Result<(), Fault> {
        let ours = marks.iter().filter_map(|m| m.downcast_ref::<ScriptMark>());
        handle
            .0
            .note(Asked::Fence(ours.map(|mark| mark.0).collect()));
        handle.0.ask(|part| part.fence.clone()).await?
    }
}

impl ScriptHandle {
    /// Which of the script's connections it is, counted from 1.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.number
    }
}

impl fmt::Debug for ScriptHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptHandle")
            .field("database", &self.0.database)
            .field("number", &self.0.number)
            .field("purpose", &self.0.purpose)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn end(&self) {
        self.over.cancel();
        self.lost.report();
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    pub(super) fn mute(&self) {
        self.muted.store(true, Ordering::Release);
    }

    fn note(&self, what: Asked) {
        self.script.note(self.number, what);
    }

    /// Asks the script something over this connection.
    async fn ask<T>(&self, act: impl Fn(&mut Part) -> Act<T>) -> Result<T, Fault> {
        let lost = || Fault::new(FaultKind::Lost, "connection lost");
        if self.is_over() {
            return Err(lost());
        }
        self.meter.wrote(1);
        let answer = self.unless_over(self.audible(self.script.act(act))).await;
        match answer.flatten() {
            Some(answer) => {
                self.reply();
                Ok(answer)
            }
            None => {
                self.end();
                Err(lost())
            }
        }
    }

    /// One attempt to run a call.
    pub(super) async fn call(&self, work: &Work) -> Result<DatabaseId, ScriptError> {
        self.note(Asked::Call(work.token().to_owned()));
        let step = self.unless_over(self.audible(self.step(work)));
        match step.await.flatten() {
            Some(answer) => {
                self.reply();
                answer.map_err(ScriptError::Refused)?;
                Ok(self.database.clone())
            }
            None => Err(ScriptError::Lost),
        }
    }

    /// `None`: the connection has ended.
    async fn step(&self, work: &Work) -> Option<Result<(), Class>> {
        let mut released = self.script.0.released.subscribe();
        let mut written = false;
        loop {
            let act = self.script.lock().call_act();
            let sent = !matches!(act, OnCall::Lose { sent: false, .. });
            if sent && !std::mem::replace(&mut written, true) {
                self.meter.wrote(1);
            }
            if self.is_muted() {
                return std::future::pending().await;
            }
            match act {
                OnCall::Hang => {
                    let held = Held(Some((self, work)));
                    // The sender lives in the script, which this connection holds.
                    let _ = released.changed().await;
                    held.let_go();
                }
                OnCall::Run => {
                    self.run(work);
                    self.script.pause().await;
                    return Some(Ok(()));
                }
                OnCall::Answer(class) => {
                    if class == Class::Executed {
                        self.run(work);
                    }
                    self.script.pause().await;
                    return Some(Err(class));
                }
                OnCall::RunInSilence => {
                    self.run(work);
                    return std::future::pending().await;
                }
                OnCall::Lose { sent, ran } => {
                    if sent && ran {
                        self.run(work);
                    }
                    self.end();
                    return None;
                }
            }
        }
    }

    fn run(&self, work: &Work) {
        self.ran(work.token().to_owned());
    }

    pub(super) fn ran(&self, token: String) {
        self.note(Asked::Ran(token));
    }

    fn reply(&self) {
        self.meter.got(1);
        self.meter.replied();
    }

    fn is_muted(&self) -> bool {
        self.muted.load(Ordering::Acquire)
    }

    /// Nothing is heard over a muted connection.
    async fn audible<T>(&self, answer: impl Future<Output = T>) -> T {
        let answer = answer.await;
        if self.is_muted() {
            return std::future::pending().await;
        }
        answer
    }

    async fn unless_over<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        self.over.run_until_cancelled(answer).await
    }
}

/// A call that the script has and does not answer. Its caller may give up; the script has it still.
struct Held<'a>(Option<(&'a Connection, &'a Work)>);

impl Held<'_> {
    fn let_go(mut self) {
        self.0 = None;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some((connection, work)) = self.0 {
            let left = (connection.number, work.token().to_owned());
            connection.script.lock().abandoned.push(left);
        }
    }
}

impl Script {
    /// `None`: lose the connection.
    async fn act<T>(&self, act: impl Fn(&mut Part) -> Act<T>) -> Option<T> {
        let mut released = self.0.released.subscribe();
        loop {
            let act = act(&mut self.lock());
            match act {
                Act::Answer(answer) => {
                    self.pause().await;
                    return Some(answer);
                }
                Act::Lose => return None,
                Act::Panic => panic!("as scripted"),
                Act::Hang => {
                    let _ = released.changed().await;
                }
            }
        }
    }

    async fn pause(&self) {
        let latency = self.lock().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }
}
