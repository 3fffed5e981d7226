//! The disaster itself: callers, operator, the breaking and the healing, the same on every network.

use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use futures_util::StreamExt;
use multidb::engine::builder::Builder;
use multidb::redis::{Notification, Redis, RedisEndpoint};
use multidb::{Database, Error, MultiDbClient, MultiDbConnection, Status};
use redis::aio::transaction_async;
use redis::{AsyncCommands, RedisResult, cmd, pipe};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{sleep, sleep_until, timeout};

use crate::history::{CHANNEL, Call, Entry, Found, Heard, History, Notes, Op, QUEUE, RAISED};
use crate::plan::{Act, Fault, Order, Plan, ms, secs};
use crate::support::load::{COUNTER, Said, TOKENS};

/// Databases and the ways to them.
pub(crate) trait World: 'static {
    /// Opens connections to the databases by their names.
    fn builder(&self) -> Builder<Redis>;
    fn break_it(&self, member: usize, fault: Fault);
    fn mend(&self, member: usize, fault: Fault);
    /// Connections that the client holds now.
    fn open(&self) -> usize;
    /// Connections that the databases hold now and will ever be told the end of.
    fn served(&self) -> usize;
    /// What a database holds.
    fn found(&self, member: usize) -> Found;
    /// How late anything may be noticed.
    fn precision(&self) -> Duration;
}

/// Lives through the plan. On a current-thread runtime in a `LocalSet`, on the simulation's clock.
pub(crate) async fn live(plan: Plan, world: impl World) -> History {
    let world = Rc::new(world);
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let mut builder = world.builder().config(plan.config.clone());
    for member in &plan.members {
        builder = builder.url(format!("redis://{}", member.name), member.weight);
    }
    let builder = builder.sweep_in_task().seed(plan.seed);
    let client = builder
        .connect()
        .await
        .expect("everything is well at first");
    let notes = Notes::begin();
    let first = client.active().expect("it serves").to_string();
    let witness = witness(&client, &notes);
    let listening = listen(&client, Rng::with_seed(plan.seed ^ 0x5ab5), notes.clone()).await;
    let listening = spawn_local(listening);
    let stop = tokio_util::sync::CancellationToken::new();
    let mut callers = JoinSet::new();
    for caller in 0..plan.callers {
        let rng = Rng::with_seed(plan.seed ^ (caller as u64 + 1));
        let work = call_on(caller, rng, client.connection(), notes.clone());
        callers.spawn_local(stop.clone().run_until_cancelled_owned(work));
    }
    let most = Rc::new(std::cell::Cell::new(0));
    let counting = spawn_local({
        let (world, most) = (world.clone(), most.clone());
        async move {
            loop {
                most.set(most.get().max(world.open()));
                sleep(ms(20)).await;
            }
        }
    });

    conduct(&plan, &client, &notes, &*world).await;
    heal(&plan, &client).await;
    notes.add(Entry::Healed);
    settle(&plan, &client, &notes).await;
    sleep(secs(1)).await;

    stop.cancel();
    while callers.join_next().await.is_some() {}
    // What has been published is read.
    sleep(ms(200)).await;
    listening.abort();
    client.close().await;
    witness.await.expect("the witness");
    counting.abort();
    drop(client);
    // What was aborted is gone once the runtime has turned to it; a connection, once it was told.
    sleep(ms(500)).await;
    let left = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let names = plan.members.iter().enumerate();
    History {
        found: names
            .map(|(index, member)| (format!("{}:6379", member.name), world.found(index)))
            .collect(),
        first,
        entries: notes.take(),
        connections: (most.get(), world.open() + world.served()),
        tasks_left: left.saturating_sub(tasks),
        precision: world.precision(),
        plan,
    }
}

fn witness(client: &MultiDbClient<Redis>, notes: &Notes) -> tokio::task::JoinHandle<()> {
    let (mut events, client, notes) = (client.events(), client.clone(), notes.clone());
    spawn_local(async move {
        while let Some(event) = events.next().await {
            notes.add(Entry::Event(event, client.snapshot()));
        }
    })
}

// === callers ===

async fn call_on(caller: usize, mut rng: Rng, mut con: MultiDbConnection, notes: Notes) {
    for number in 0.. {
        let token = format!("{caller}.{number}");
        let began = notes.now();
        let op = match rng.u8(..16) {
            0..=3 => Op::Push(token),
            4 => Op::Both(token),
            5 | 6 => Op::Incr,
            7 => Op::Echo(true),
            8 => Op::Raise,
            9 => Op::Put(token),
            10 => Op::Take(None),
            11 | 12 => Op::Publish(token),
            _ => Op::Get,
        };
        // Some callers lose patience, at any point of a call.
        let patience = match rng.u8(..8) {
            0 => Duration::from_micros(rng.u64(..30_000)),
            _ => Duration::MAX,
        };
        let noted = Unended::new(&notes, caller, op.clone(), began);
        let wait = rng.f64() * LONGEST_WAIT.as_secs_f64();
        let result = timeout(patience, run(&mut con, &op, number, wait))
            .await
            .ok();
        noted.ended(result);
        sleep(Duration::from_micros(rng.u64(1000..20_000))).await;
        if rng.u8(..16) == 0 {
            con = con.clone();
        }
    }
}

/// What came of a call: a number, and what was taken.
type Answer = (i64, Option<String>);

/// How long a taker waits at most.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_millis(300);

async fn run(con: &mut MultiDbConnection, op: &Op, number: u64, wait: f64) -> RedisResult<Answer> {
    let answer = match op {
        Op::Take(_) => {
            // Zero would be for ever.
            let taken: Option<(String, String)> = con.blpop(QUEUE, wait.max(0.01)).await?;
            return Ok((0, taken.map(|(_, token)| token)));
        }
        Op::Put(token) => con.rpush(QUEUE, token).await,
        Op::Publish(token) => con.publish(CHANNEL, token).await,
        Op::Raise => raise(con.clone()).await,
        Op::Push(token) => con.rpush(TOKENS, token).await,
        Op::Incr => con.incr(COUNTER, 1).await,
        Op::Get => {
            let value: Option<i64> = con.get(COUNTER).await?;
            Ok(value.unwrap_or_default())
        }
        Op::Both(token) => {
            let mut both = pipe();
            both.atomic().rpush(TOKENS, token).incr(COUNTER, 1).ignore();
            let (length,) = both.query_async(con).await?;
            Ok(length)
        }
        Op::Echo(_) => {
            let sent = format!("echo {number}");
            let got: String = cmd("ECHO").arg(&sent).query_async(con).await?;
            Ok(i64::from(got == sent))
        }
    };
    answer.map(|number| (number, None))
}

async fn raise(con: MultiDbConnection) -> RedisResult<i64> {
    transaction_async(con, &[RAISED], |mut con, mut pipe| async move {
        let value: Option<i64> = con.get(RAISED).await?;
        let next = value.unwrap_or_default() + 1;
        let written: Option<()> = pipe
            .set(RAISED, next)
            .ignore()
            .query_async(&mut con)
            .await?;
        Ok(written.map(|()| next))
    })
    .await
}

/// Reads what is published, and changes its mind about another channel now and then.
async fn listen(
    client: &MultiDbClient<Redis>,
    mut rng: Rng,
    notes: Notes,
) -> impl Future<Output = ()> + use<> {
    let mut pubsub = client
        .get_async_pubsub()
        .await
        .expect("all is well at first");
    pubsub
        .subscribe(CHANNEL)
        .await
        .expect("all is well at first");
    let (mut sink, stream) = pubsub.split();
    let mut stream = stream.with_notifications();
    let reading = async move {
        while let Some(notification) = stream.next().await {
            let heard = match notification {
                Notification::Message(msg) => Heard::Message(msg.get_payload().expect("a token")),
                Notification::Resubscribed { gap, .. } => Heard::Gap(gap),
                other => panic!("{other:?}"),
            };
            notes.add(Entry::Heard(heard));
        }
    };
    let wavering = async move {
        loop {
            sleep(Duration::from_micros(rng.u64(1000..300_000))).await;
            let other = ["a", "b"][rng.usize(..2)];
            let patience = Duration::from_micros(rng.u64(..50_000));
            let _ = match rng.bool() {
                true => timeout(patience, sink.subscribe(other)).await,
                false => timeout(patience, sink.unsubscribe(other)).await,
            };
        }
    };
    async move {
        tokio::select! {
            biased;
            () = reading => {}
            () = wavering => {}
        }
    }
}

/// A call under way: noted however it ends, by the end of its caller, too.
struct Unended<'a> {
    notes: &'a Notes,
    call: Option<Call>,
}

impl<'a> Unended<'a> {
    fn new(notes: &'a Notes, caller: usize, op: Op, began: Duration) -> Self {
        let said = None;
        let call = Some(Call {
            caller,
            op,
            began,
            said,
        });
        Self { notes, call }
    }

    fn ended(mut self, result: Option<RedisResult<Answer>>) {
        let call = self.call.as_mut().expect("noted once");
        match (&mut call.op, &result) {
            (Op::Echo(same), Some(Ok((answer, _)))) => *same = *answer == 1,
            (Op::Take(token), Some(Ok((_, taken)))) => token.clone_from(taken),
            _ => {}
        }
        call.said = result.map(|result| match result {
            Ok((answer, _)) => Said::Done(answer),
            Err(error) => Said::from(&error),
        });
    }
}

impl Drop for Unended<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            self.notes.add(Entry::Call(call));
        }
    }
}

// === the conductor ===

async fn conduct(plan: &Plan, client: &MultiDbClient<Redis>, notes: &Notes, world: &impl World) {
    let start = tokio::time::Instant::now();
    let mut orders = JoinSet::new();
    for step in &plan.steps {
        sleep_until(start + step.at).await;
        match step.act {
            Act::Break(member, fault) => {
                notes.add(Entry::Acted(step.act, None));
                world.break_it(member, fault);
            }
            Act::Mend(member, fault) => {
                world.mend(member, fault);
                notes.add(Entry::Acted(step.act, None));
            }
            Act::Operate(member, order) => {
                // Orders may overlap, as those of two operators do.
                let (client, notes, act) = (client.clone(), notes.clone(), step.act);
                let (name, weight) = (plan.members[member].name, plan.members[member].weight);
                orders.spawn_local(async move {
                    let answer = operate(&client, name, weight, order).await;
                    notes.add(Entry::Acted(
                        act,
                        answer.err().map(|error| error.to_string()),
                    ));
                });
            }
        }
    }
    sleep_until(start + plan.heal_at).await;
    // Every order is answered, and none is carried out after the healing.
    let answered = timeout(secs(10), async {
        while orders.join_next().await.is_some() {}
    });
    answered.await.expect("every order is answered");
}

async fn operate(
    client: &MultiDbClient<Redis>,
    name: &str,
    weight: f64,
    order: Order,
) -> Result<(), Error> {
    let id = format!("{name}:6379");
    match order {
        Order::Weigh(weight) => client.set_weight(&id, weight).await,
        Order::SwitchTo => client.switch_to(&id).await,
        Order::Unpin => client.unpin().await,
        Order::Disable => client.disable(&id).await,
        Order::Enable => client.enable(&id).await,
        Order::Remove => client.remove(&id).await,
        Order::Add => add(client, name, weight).await,
        Order::Force(time) => client.force_active(&id, Some(ms(time))).await,
        Order::ForceOpen => client.force_open_circuit(&id).await,
        Order::Reset => client.reset_circuit(&id).await,
        Order::PauseFallback => client.pause_fallback().await,
        Order::ResumeFallback => client.resume_fallback().await,
    }
}

async fn add(client: &MultiDbClient<Redis>, name: &str, weight: f64) -> Result<(), Error> {
    let endpoint = RedisEndpoint::parse(&format!("redis://{name}"))?;
    let database = Database::new(format!("{name}:6379"), endpoint)?.weight(weight)?;
    client.add(database).await.map(drop)
}

/// Takes back whatever the operator ordered. What broke has been mended step by step.
async fn heal(plan: &Plan, client: &MultiDbClient<Redis>) {
    for member in &plan.members {
        let id = format!("{}:6379", member.name);
        if client.snapshot().member(&id).is_none() {
            let added = add(client, member.name, member.weight).await;
            added.expect("it is no member");
        }
        let held_open = |m: &multidb::MemberView| {
            m.circuit == multidb::CircuitState::Open && m.circuit_opens_until.is_none()
        };
        if client.snapshot().member(&id).is_some_and(held_open) {
            client.reset_circuit(&id).await.expect("a member");
        }
        client
            .set_weight(&id, member.weight)
            .await
            .expect("a member");
        client.enable(&id).await.expect("a member");
    }
    client.unpin().await.expect("an open client");
    client.resume_fallback().await.expect("an open client");
}

/// Waits until the heaviest serves and nothing is held against anybody, as it must come to be.
async fn settle(plan: &Plan, client: &MultiDbClient<Redis>, notes: &Notes) {
    let weights = plan.members.iter().map(|member| member.weight);
    let heaviest = weights.fold(0.0, f64::max);
    let well = client.wait_for(|now| {
        let active = now.members.iter().find(|member| member.active);
        now.status == Status::Serving
            && active.is_some_and(|member| member.weight.value() == heaviest && member.connected)
            && now.members.iter().all(|member| member.obstacles.is_empty())
    });
    let settled = timeout(LONGEST_RECOVERY, well).await.is_ok();
    // A connection that died in the disaster and has not been used since is found by its ping.
    sleep(secs(5)).await;
    notes.add(Entry::Settled(settled, client.snapshot()));
}

/// The longest dwell with its jitter, two recovery probes, a back-off and a fallback interval.
const LONGEST_RECOVERY: Duration = Duration::from_secs(20);
