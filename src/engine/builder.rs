//! Putting a client together.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
// See `Core::dormant`.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::{Notify, broadcast, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::client::{MultiDbClient, validate};
use super::config::{Config, DetectorConfig, Sensitivity};
use super::database::{Database, Role};
use super::detector::{FailureDetector, SlidingWindow};
use super::error::{ConfigError, Error, ErrorKind};
use super::event::{EVENT_BUFFER, Event, Events};
use super::health::{Checks, HealthCheck, PING};
use super::last_active::LastActive;
use super::live::{Core, Mail, Routing};
use super::machine::Machine;
use super::membership::Membership;
use super::published::Published;
use super::retry::{self, Backoff, Budget, Pauses};
use super::snapshot::{Snapshot, Status};
use super::strategy::{FailoverStrategy, HighestWeight};
use super::supervisor::Supervisor;
use super::sweep;

/// Makes a client. Nothing is done before [`Builder::connect`]; nothing is validated before either.
#[must_use]
pub struct Builder<B: Backend> {
    backend: B,
    databases: Vec<Database<B::Endpoint>>,
    config: Config,
    checks: Vec<Arc<dyn HealthCheck<B>>>,
    without_ping: bool,
    strategy: Arc<dyn FailoverStrategy>,
    detectors: Detectors,
    backoff: Option<Backoff>,
    listeners: Vec<Listener>,
    membership: Option<Box<dyn Membership<B::Endpoint>>>,
    last_active: Option<Arc<dyn LastActive>>,
    required_role: Role,
    seed: Option<u64>,
    sweep_in_task: bool,
    /// What was wrong with something given earlier: told when the client is built.
    flaw: Option<ConfigError>,
}

type Detectors = Box<dyn Fn(&DetectorConfig) -> Box<dyn FailureDetector> + Send>;
type Listener = Box<dyn FnMut(&Event) + Send>;

impl<B: Backend> Builder<B> {
    /// A builder with the defaults of [`Config`] and no database yet.
    pub fn new(backend: B) -> Self {
        Self {
            backend,
            databases: Vec::new(),
            config: Config::default(),
            checks: Vec::new(),
            without_ping: false,
            strategy: Arc::new(HighestWeight),
            detectors: Box::new(|config| Box::new(SlidingWindow::new(config.clone()))),
            backoff: None,
            listeners: Vec::new(),
            membership: None,
            last_active: None,
            required_role: Role::Primary,
            seed: None,
            sweep_in_task: false,
            flaw: None,
        }
    }

    /// Adds a database.
    pub fn database(mut self, database: Database<B::Endpoint>) -> Self {
        self.databases.push(database);
        self
    }

    #[cfg(any(feature = "grpc", feature = "redis"))]
    /// Adds a database that may have turned out invalid; the error is told when the client is built.
    pub(crate) fn try_database(
        mut self,
        database: Result<Database<B::Endpoint>, ConfigError>,
    ) -> Self {
        match database {
            Ok(database) => self.databases.push(database),
            Err(flaw) => {
                let place = format!("databases[{}]", self.databases.len());
                self.flaw = self.flaw.or(Some(flaw.within(&place)));
            }
        }
        self
    }

    #[cfg(any(feature = "grpc", feature = "redis"))]
    pub(crate) fn with_backend(mut self, change: impl FnOnce(&mut B)) -> Self {
        change(&mut self.backend);
        self
    }

    /// Replaces the whole configuration.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The budget of a call, retries and waiting included. Default 5 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.config.calls.deadline = deadline;
        self
    }

    /// How long one attempt may wait for its reply. Default 500 ms, as in redis-rs.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.config.calls.response_timeout = timeout;
        self
    }

    /// How fast a hang is believed. Default [`Sensitivity::Balanced`].
    pub fn sensitivity(mut self, sensitivity: Sensitivity) -> Self {
        self.config.sensitivity = sensitivity;
        self
    }

    /// How long a bad database stays out at least. Default 60 s.
    pub fn grace_period(mut self, grace: Duration) -> Self {
        self.config.circuit.grace_period = grace;
        self.config.circuit.max_grace_period = self.config.circuit.max_grace_period.max(grace);
        self
    }

    /// The pause between two health rounds. Default 5 s.
    pub fn health_interval(mut self, interval: Duration) -> Self {
        self.config.health.interval = interval;
        self
    }

    /// Whether the client returns by itself to a heavier database that has recovered. Default true.
    pub fn auto_fallback(mut self, on: bool) -> Self {
        self.config.failover.auto_fallback = on;
        self
    }

    /// Adds a health check to the backend's own, the ping; all must agree.
    pub fn health_check(mut self, check: impl HealthCheck<B>) -> Self {
        self.checks.push(Arc::new(check));
        self
    }

    /// Leaves the backend's own check out of the rounds; it is called [`PING`]. Whether a suspect answers
    /// at all is asked by it all the same.
    ///
    /// Without any check of yours it stays.
    pub fn without_ping(mut self) -> Self {
        self.without_ping = true;
        self
    }

    /// Chooses the database to serve from. Default [`HighestWeight`].
    pub fn strategy(mut self, strategy: impl FailoverStrategy) -> Self {
        self.strategy = Arc::new(strategy);
        self
    }

    /// Makes the failure detector of each failure domain. Default [`SlidingWindow`].
    pub fn failure_detector<D: FailureDetector>(
        mut self,
        make: impl Fn(&DetectorConfig) -> D + Send + 'static,
    ) -> Self {
        self.detectors = Box::new(move |config| Box::new(make(config)));
        self
    }

    /// The bounds of the pauses between attempts: any iterator of durations; the call draws each
    /// pause between 0 and its bound, and retries no more when the iterator ends.
    ///
    /// Default: 20 ms doubling to 1 s, without end.
    pub fn backoff<I>(mut self, make: impl Fn() -> I + Send + Sync + 'static) -> Self
    where
        I: Iterator<Item = Duration> + Send + 'static,
    {
        self.backoff = Some(Arc::new(move || Box::new(make()) as Pauses));
        self
    }

    /// Calls `listener` for every event, in order, on a thread of its own: it may block, call the
    /// client or panic (then it is called no more) without harming anybody.
    pub fn on_event(mut self, listener: impl FnMut(&Event) + Send + 'static) -> Self {
        self.listeners.push(Box::new(listener));
        self
    }

    /// Discovers databases while the client runs.
    pub fn membership(mut self, membership: impl Membership<B::Endpoint>) -> Self {
        self.membership = Some(Box::new(membership));
        self
    }

    /// Begins with the database that was active last, if that serves, and keeps what is active for whoever
    /// starts next. Default: the weights say where to begin.
    pub fn last_active(mut self, hint: impl LastActive) -> Self {
        self.last_active = Some(Arc::new(hint));
        self
    }

    /// What the client needs its database for. Default [`Role::Primary`].
    pub fn required_role(mut self, role: Role) -> Self {
        self.required_role = role;
        self
    }

    /// Seeds the jitter of schedules and of pauses, so that a run can be repeated. Default: random.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Runs the sweep as a task on the runtime's own time, which a test can pause. Costs throughput.
    #[cfg(any(test, feature = "testing"))]
    pub fn sweep_in_task(mut self) -> Self {
        self.sweep_in_task = true;
        self
    }

    /// Starts and waits until the start policy is met and a database serves.
    ///
    /// Members that failed stay and are probed on. Dropping the future ends the client.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] before any I/O; [`ErrorKind::NotStarted`] with the fault of the first
    /// database that failed.
    pub async fn connect(self) -> Result<MultiDbClient<B>, Error> {
        let client = self.connect_lazy()?;
        let core = client.core().clone();
        if let Some(launch) = core.launch() {
            launch();
        }
        let (answer, answered) = oneshot::channel();
        let _ = core.mailbox.send(Mail::Start {
            lazy: false,
            answer: Some(answer),
        });
        match answered.await {
            Ok(Ok(())) => Ok(client),
            Ok(Err(error)) => {
                client.close().await;
                Err(error)
            }
            Err(_) => Err(Error::new(ErrorKind::Closed)),
        }
    }

    /// A client that starts with its first call. No I/O, and no runtime is needed yet.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`].
    pub fn connect_lazy(self) -> Result<MultiDbClient<B>, Error> {
        if let Some(flaw) = self.flaw {
            return Err(flaw.into());
        }
        self.config.validate()?;
        if self.databases.is_empty() && self.membership.is_none() {
            return Err(ConfigError::new("databases", "must not be empty").into());
        }
        validate(&self.databases)?;
        for (index, check) in self.checks.iter().enumerate() {
            let before = &self.checks[..index];
            if check.name() == PING || before.iter().any(|other| other.name() == check.name()) {
                return Err(ConfigError::new("health_check", "the name is taken").into());
            }
        }

        let now = Instant::now();
        let news = Arc::new(Notify::new());
        let swept = sweep::Swept::new(news.clone());
        let (clock, registration) = if self.sweep_in_task {
            (Arc::new(sweep::Clock::for_task()), None)
        } else {
            let registration = sweep::register(swept.clone())
                .map_err(|error| Error::new(ErrorKind::Closed).caused_by(error))?;
            (sweep::process_clock(), Some(registration))
        };
        let (mailbox, mail) = mpsc::unbounded_channel();
        let snapshot = Arc::new(Snapshot {
            generation: 0,
            active: None,
            status: Status::Starting,
            directed_to: None,
            members: Vec::new(),
        });
        let routing = Routing {
            live: None,
            status: Status::Starting,
            snapshot,
            counters: Arc::new([]),
            upcoming: None,
        };
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..));
        #[allow(clippy::disallowed_types)]
        let core = Arc::new(Core {
            backend: self.backend,
            backoff: self
                .backoff
                .unwrap_or_else(|| retry::default_backoff(&self.config.calls)),
            budget: Budget::new(&self.config.calls, now),
            jitter: Mutex::new(fastrand::Rng::with_seed(!seed)),
            clock: clock.clone(),
            swept: swept.clone(),
            routing: Published::new(Arc::new(routing)),
            followers: Arc::default(),
            checks: Checks::new(self.checks, !self.without_ping),
            mailbox,
            news,
            events: broadcast::Sender::new(EVENT_BUFFER),
            waiting: AtomicUsize::new(0),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
            dormant: Mutex::new(None),
            config: self.config,
        });
        for listener in self.listeners {
            listen(Events::new(core.events.subscribe()), listener);
        }
        let client = MultiDbClient::from_core(core.clone(), registration);
        let hint = self.last_active.as_ref().and_then(|known| {
            let recall = AssertUnwindSafe(|| known.recall());
            std::panic::catch_unwind(recall).unwrap_or_default()
        });
        if let Some(known) = self.last_active {
            let remember = move |event: &Event| {
                if let Event::ActiveChanged { to, .. } = event {
                    known.remember(to);
                }
            };
            listen(Events::new(core.events.subscribe()), Box::new(remember));
        }
        let mut machine = Machine::new(
            core.config.clone(),
            self.strategy,
            self.detectors,
            self.required_role,
            seed,
            now,
        );
        machine.hint(hint);
        let supervisor =
            Supervisor::new(core.clone(), machine, mail, self.membership, self.databases);
        let sweep_in_task = self.sweep_in_task;
        let stop = core.stop.clone();
        let launch = Box::new(move || {
            if sweep_in_task {
                tokio::spawn(async move {
                    stop.run_until_cancelled(sweep::run_as_task(clock, swept))
                        .await;
                });
            }
            tokio::spawn(supervisor.run());
        });
        *core
            .dormant
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(launch);
        Ok(client)
    }
}

/// One thread per listener: only so can a listener that blocks harm nobody.
fn listen(mut events: Events, mut listener: Listener) {
    let run = move || {
        while let Some(event) = events.next_blocking() {
            let called = std::panic::catch_unwind(AssertUnwindSafe(|| listener(&event)));
            if called.is_err() {
                return;
            }
        }
    };
    // Without a thread there is no listener; the client is worth more than its listener.
    let _ = std::thread::Builder::new()
        .name("multidb-listener".to_owned())
        .spawn(run);
}
