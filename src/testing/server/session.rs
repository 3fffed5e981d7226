//! One connection's conversation: what it has selected, queued and watched, and how one command
//! is admitted and executed.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::commands::{self, Command, Handler};
use super::database::{Database, Key};
use super::process::{Process, Shared};
use super::resp::{Refusal, Reply};
use super::storage::Keyspace;
use super::users::DEFAULT;
use super::waiting::{Served, Take, Waiter};

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) db: usize,
    pub(super) authenticated: bool,
    /// Who it is, once it is authenticated.
    pub(super) user: String,
    pub(super) transaction: Option<Transaction>,
    pub(super) watched: Vec<Watch>,
    pub(super) blocked: Option<Blocked>,
    /// Inside `EXEC`, where nothing may block.
    pub(super) executing: bool,
    /// The command executed last.
    pub(super) last: &'static str,
    /// The connection closes once what it has been told is written.
    pub(super) closing: bool,
}

/// What `MULTI` has queued.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    pub(super) queue: Vec<(&'static Command, Vec<Vec<u8>>)>,
    /// A command was refused while queueing: `EXEC` must fail.
    pub(super) spoiled: bool,
}

/// A watched key and the revision it had.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) db: usize,
    pub(super) key: Key,
    pub(super) revision: u64,
}

/// A command that waits for a list to fill.
#[derive(Debug)]
pub(super) struct Blocked {
    db: usize,
    number: u64,
    pub(super) served: oneshot::Receiver<Served>,
    pub(super) deadline: Option<Instant>,
    pub(super) on_timeout: Vec<u8>,
}

/// What has become of a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// The server is paused: offer the command again later.
    Postponed,
}

/// Everything a command may touch.
pub(super) struct Context<'a> {
    pub(super) session: &'a mut Session,
    pub(super) process: &'a mut Process,
    pub(super) keyspace: &'a mut Keyspace,
    pub(super) out: &'a mut Reply,
}

impl Session {
    pub(super) fn new(id: u64, shared: Arc<Shared>) -> Self {
        let authenticated = shared.process().users.is_open();
        Self {
            id,
            db: 0,
            authenticated,
            user: DEFAULT.to_owned(),
            shared,
            transaction: None,
            watched: Vec::new(),
            blocked: None,
            executing: false,
            last: "NULL",
            closing: false,
        }
    }

    /// Takes a blocked command out of the queues, if it has not been served meanwhile.
    pub(super) fn give_up(&mut self, keyspace: &mut Keyspace) -> Option<Blocked> {
        let blocked = self.blocked.take()?;
        let waiting = &mut keyspace.databases[blocked.db].waiting;
        if waiting.remove(blocked.number).is_none() {
            self.blocked = Some(blocked);
            return None;
        }
        Some(blocked)
    }

    pub(super) fn unwatch(&mut self, keyspace: &mut Keyspace) {
        for watch in self.watched.drain(..) {
            keyspace.databases[watch.db].unwatch(&watch.key);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.shared);
        shared.process().clients.remove(&self.id);
        if self.blocked.is_some() || !self.watched.is_empty() {
            let mut keyspace = shared.storage.lock();
            self.give_up(&mut keyspace);
            self.unwatch(&mut keyspace);
        }
    }
}

impl Context<'_> {
    /// Executes one command, checked in the order Redis checks.
    pub(super) fn execute(&mut self, args: &[&[u8]]) -> Outcome {
        if args[0].eq_ignore_ascii_case(b"quit") {
            self.out.ok();
            self.session.closing = true;
            return Outcome::Done;
        }
        let admitted = commands::lookup(args).and_then(|command| {
            self.admit(command)?;
            Ok(command)
        });
        let command = match admitted {
            Ok(command) => command,
            Err(refusal) => {
                self.reject(args, refusal);
                return Outcome::Done;
            }
        };
        if let Some(pause) = self.process.paused()
            && (!pause.writes_only || self.flags(command) & commands::WRITES != 0)
        {
            return Outcome::Postponed;
        }
        match &mut self.session.transaction {
            Some(transaction) if command.flags & commands::UNQUEUED == 0 => {
                let args = args.iter().map(|arg| arg.to_vec()).collect();
                transaction.queue.push((command, args));
                self.out.simple("QUEUED");
            }
            _ => {
                self.run(command, args);
                for database in &mut self.keyspace.databases {
                    database.serve_waiters();
                }
            }
        }
        Outcome::Done
    }

    /// Executes an admitted command; `EXEC` comes here for each it has queued.
    pub(super) fn run(&mut self, command: &'static Command, args: &[&[u8]]) {
        self.process.commands += 1;
        self.session.last = command.name;
        if self.process.recording {
            self.process.record(args);
        }
        let start = self.out.bytes.len();
        let answer = match command.handler {
            Handler::Data(run) => {
                let database = &mut self.keyspace.databases[self.session.db];
                run(database, args, self.out)
            }
            Handler::Session(run) => run(self, args),
        };
        if let Err(refusal) = answer {
            self.out.bytes.truncate(start);
            self.out.refuse(&refusal);
        }
    }

    pub(super) fn database(&mut self) -> &mut Database {
        &mut self.keyspace.databases[self.session.db]
    }

    /// Blocks the connection until one of `keys` has an element to `take` or `deadline` passes.
    pub(super) fn block(
        &mut self,
        keys: Vec<Key>,
        take: Take,
        deadline: Option<Instant>,
        on_timeout: Vec<u8>,
    ) {
        let (reply, served) = oneshot::channel();
        let waiter = Waiter {
            server: self.session.shared.id,
            client: self.session.id,
            keys,
            take,
            resp3: self.out.resp3,
            reply,
        };
        self.session.blocked = Some(Blocked {
            db: self.session.db,
            number: self.database().waiting.add(waiter),
            served,
            deadline,
            on_timeout,
        });
    }

    /// Tells the server what `CLIENT LIST` shows of this connection.
    pub(super) fn describe(&mut self) {
        let (session, resp3) = (&*self.session, self.out.resp3);
        if let Some(client) = self.process.clients.get_mut(&session.id) {
            client.active = Instant::now();
            client.db = session.db;
            client.resp3 = resp3;
            client.queued = session.transaction.as_ref().map(|t| t.queue.len());
            client.watched = session.watched.len();
            client.user.clone_from(&session.user);
            client.command = session.last;
        }
    }

    /// Whether replies and messages could be mistaken for each other: then hardly anything may be asked.
    pub(super) fn is_listening(&self) -> bool {
        let client = self.process.clients.get(&self.session.id);
        !self.out.resp3 && client.is_some_and(|client| !client.subscriptions.is_empty())
    }

    fn admit(&self, command: &Command) -> Result<(), Refusal> {
        let flags = self.flags(command);
        let faults = &self.process.faults;
        let writes = flags & commands::WRITES != 0;
        if !self.session.authenticated && flags & commands::UNAUTHENTICATED == 0 {
            return Err(NO_AUTH);
        }
        if flags & commands::UNAUTHENTICATED == 0
            && let Some(user) = self.process.users.get(&self.session.user)
            && let Some(refusal) = commands::acl::refusal(user, command)
        {
            return Err(refusal);
        }
        if faults.out_of_memory {
            // Queueing a command needs memory too, whatever the command.
            let queues = self.session.transaction.is_some() && flags & commands::UNQUEUED == 0;
            if queues || flags & commands::GROWS != 0 {
                return Err(OUT_OF_MEMORY);
            }
        }
        if let Some(refusal) = &faults.refusal {
            // Redis lets a health check by PING see that it cannot save.
            let pinged = command.name == "ping" && refusal.starts_with("MISCONF");
            if writes || pinged {
                return Err(Refusal::from(refusal.clone()));
            }
        }
        if faults.read_only && writes {
            return Err(READ_ONLY);
        }
        if self.is_listening() && !WHILE_LISTENING.contains(&command.name) {
            let name = command.name;
            return Err(Refusal::from(format!(
                "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / \
                 RESET are allowed in this context"
            )));
        }
        if faults.loading && flags & commands::LOADED != 0 {
            return Err(LOADING);
        }
        Ok(())
    }

    /// A command's flags; those of `EXEC` are its transaction's.
    fn flags(&self, command: &Command) -> u8 {
        let queue = match &self.session.transaction {
            Some(transaction) if command.name == "exec" => transaction.queue.as_slice(),
            _ => &[],
        };
        queue
            .iter()
            .fold(command.flags, |flags, (queued, _)| flags | queued.flags)
    }

    fn reject(&mut self, args: &[&[u8]], refusal: Refusal) {
        if let Some(transaction) = &mut self.session.transaction {
            transaction.spoiled = true;
        }
        if args[0].eq_ignore_ascii_case(b"exec") {
            self.session.transaction = None;
            self.session.unwatch(self.keyspace);
            // A general error comes without its code here.
            let because = refusal.0.strip_prefix("ERR ").unwrap_or(&refusal.0);
            let text = format!("EXECABORT Transaction discarded because of: {because}");
            self.out.refuse(&Refusal::from(text));
        } else {
            self.out.refuse(&refusal);
        }
    }
}

const WHILE_LISTENING: [&str; 8] = [
    "subscribe",
    "unsubscribe",
    "psubscribe",
    "punsubscribe",
    "ssubscribe",
    "sunsubscribe",
    "ping",
    "reset",
];
const NO_AUTH: Refusal = Refusal::new("NOAUTH Authentication required.");
const OUT_OF_MEMORY: Refusal =
    Refusal::new("OOM command not allowed when used memory > 'maxmemory'.");
const READ_ONLY: Refusal = Refusal::new("READONLY You can't write against a read only replica.");
const LOADING: Refusal = Refusal::new("LOADING Redis is loading the dataset in memory");
