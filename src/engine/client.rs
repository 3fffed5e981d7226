//! The client: handles for calls, an operator's verbs, and what can be seen from outside.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::backend::Backend;
use super::database::{Database, DatabaseId, Weight};
use super::error::{ConfigError, Error, ErrorKind};
use super::event::Events;
use super::health::HealthCheck;
use super::live::{Core, Live, Mail, VerbDraft};
use super::machine::Verb;
use super::membership::Topology;
use super::run::{Router, acquire};
use super::snapshot::{Snapshot, Status};
use super::statistics::Statistics;
use super::sweep::Registration;

/// Many weighted databases behind one handle.
///
/// Cheap to clone. Dropping the last clone, connections included, ends everything the client runs;
/// [`MultiDbClient::close`] does so and waits for it.
pub struct MultiDbClient<B: Backend>(Arc<Anchor<B>>);

/// Held by handles only, so that its drop is the end of the last handle.
struct Anchor<B: Backend> {
    core: Arc<Core<B>>,
    /// `None` where the sweep runs as a task.
    _sweep: Option<Registration>,
}

/// Keeps a unit of work on the database and the connection it was begun on.
///
/// New work goes elsewhere after a switch; what holds a lease stays, and the old connection with it,
/// until it is dropped, the connection is lost, or the drain policy cuts it off.
pub struct Lease<B: Backend> {
    core: Arc<Core<B>>,
    live: Arc<Live<B>>,
}

// === impl MultiDbClient ===

impl<B: Backend> MultiDbClient<B> {
    pub(crate) fn from_core(core: Arc<Core<B>>, sweep: Option<Registration>) -> Self {
        Self(Arc::new(Anchor {
            core,
            _sweep: sweep,
        }))
    }

    pub(crate) fn core(&self) -> &Arc<Core<B>> {
        &self.0.core
    }

    /// A handle for calls. No I/O.
    #[must_use]
    pub fn router(&self) -> Router<B> {
        Router::new(self.clone())
    }

    /// Pins the active database and its connection for work that must not move.
    ///
    /// Waits for a database within `calls.deadline`. Cancel-safe.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`], [`ErrorKind::NoHealthyDatabase`], [`ErrorKind::Closed`].
    pub async fn lease(&self) -> Result<Lease<B>, Error> {
        let deadline = Instant::now() + self.core().config.calls.deadline;
        let live = acquire(self.core(), deadline, None).await?;
        Ok(Lease::pin(self.core(), live))
    }

    // --- what is the case ---

    /// The state of every database at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.core().current().snapshot.clone()
    }

    /// What every database has done since it was added, in that order; empty before a lazy client has started.
    #[must_use]
    pub fn statistics(&self) -> Vec<Statistics> {
        let (routing, now) = (self.core().current(), Instant::now());
        let all = routing.counters.iter();
        all.map(|(id, counters)| counters.read(id.clone(), now))
            .collect()
    }

    /// Why each database is or is not selectable, for people: one line per database.
    #[must_use]
    pub fn explain(&self) -> String {
        self.snapshot().to_string()
    }

    /// The active database; it may be unable to serve at the moment, see [`Snapshot::status`].
    #[must_use]
    pub fn active(&self) -> Option<DatabaseId> {
        self.core().current().snapshot.active.clone()
    }

    /// What happens from now on, in order. Any number of listeners; a slow one harms only itself.
    #[must_use]
    pub fn events(&self) -> Events {
        let events = Events::new(self.core().events.subscribe());
        match self.core().ended.is_cancelled() {
            true => Events::over(),
            false => events,
        }
    }

    /// Waits until `condition` holds for the snapshot. Cancel-safe.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] if the client is closed first.
    pub async fn wait_for(
        &self,
        mut condition: impl FnMut(&Snapshot) -> bool,
    ) -> Result<Arc<Snapshot>, Error> {
        self.core().start_lazily();
        let mut holds = false;
        let routing = self.core().routing.wait_for(|routing| {
            holds = condition(&routing.snapshot);
            holds || routing.status == Status::Closed
        });
        let snapshot = routing.await.snapshot.clone();
        holds.then_some(snapshot).ok_or_else(closed)
    }

    // --- an operator's verbs ---
    //
    // Each is one input of the machine and answers when it has come out. Dropping the future does
    // not take the order back.

    /// Adds a health check from the next round on.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there is one of its name already.
    pub fn add_health_check(&self, check: impl HealthCheck<B>) -> Result<(), Error> {
        match self.core().checks.add(Arc::new(check)) {
            true => Ok(()),
            false => Err(ConfigError::new("health_check", "the name is taken").into()),
        }
    }

    /// Removes a health check from the next round on, by its name. The backend's own is called
    /// [`PING`](super::health::PING), see [`Builder::without_ping`](super::builder::Builder::without_ping).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there is none.
    pub fn remove_health_check(&self, name: &str) -> Result<(), Error> {
        match self.core().checks.remove(name) {
            true => Ok(()),
            false => Err(ConfigError::new("health_check", "there is none of this name").into()),
        }
    }

    /// Adds a database without asking it anything first; it serves once it is proven and chosen.
    ///
    /// # Errors
    /// [`ErrorKind::DuplicateDatabase`]; [`ErrorKind::Closed`].
    pub async fn add(&self, database: Database<B::Endpoint>) -> Result<DatabaseId, Error> {
        self.admit(database, false).await
    }

    /// Adds a database if it answers; otherwise nothing changes.
    ///
    /// # Errors
    /// As [`MultiDbClient::add`], and [`ErrorKind::Unhealthy`].
    pub async fn add_verified(&self, database: Database<B::Endpoint>) -> Result<DatabaseId, Error> {
        self.admit(database, true).await
    }

    async fn admit(
        &self,
        database: Database<B::Endpoint>,
        verify: bool,
    ) -> Result<DatabaseId, Error> {
        database.validate()?;
        let id = database.id.clone();
        self.post(Some(database), VerbDraft::Add { verify }).await?;
        Ok(id)
    }

    /// Removes a database. The active one is left first, for a proven other one; its calls in flight
    /// end where they are.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownDatabase`]; [`ErrorKind::LastDatabase`]; [`ErrorKind::Unhealthy`] if it
    /// serves and no other database can.
    pub async fn remove(&self, id: impl AsRef<str>) -> Result<(), Error> {
        self.order(Verb::Remove(named(id)?)).await
    }

    /// Changes a weight and decides anew at once.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownDatabase`]; [`ErrorKind::Invalid`] for NaN, an infinity or a negative number.
    pub async fn set_weight(&self, id: impl AsRef<str>, weight: f64) -> Result<(), Error> {
        let weight = Weight::new(weight)?;
        self.order(Verb::SetWeight(named(id)?, weight)).await
    }

    /// Lets a database serve again.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownDatabase`].
    pub async fn enable(&self, id: impl AsRef<str>) -> Result<(), Error> {
        self.order(Verb::SetEnabled(named(id)?, true)).await
    }

    /// Stops a database from serving; it stays watched. The active one is left as soon as another is proven.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownDatabase`].
    pub async fn disable(&self, id: impl AsRef<str>) -> Result<(), Error> {
        self.order(Verb::SetEnabled(named(id)?, false)).await
    }

    /// Proves a database, switches to it and stays there until [`MultiDbClient::unpin`] or its failure.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownDatabase`]; [`ErrorKind::Unhealthy`] if it is not fit, and nothing has
    /// changed; [`ErrorKind::Superseded`] if the client had to go elsewhere meanwhile.
    pub async fn switch_to(&self, id: impl AsRef<str>) -> Result<(), Error> {
        self.order(Verb::SwitchTo(named(id)?)).await
    }

    /// Switches now, whatever the circuit says, and stays for `time` (`None`: until [`MultiDbClient::unpin`]).
    ///
    /// # Errors
    /// [`ErrorKind::UnknownDatabase`]; [`ErrorKind::Unhealthy`] if it is disabled.
    pub async fn force_active(
        &self,
        id: impl AsRef<str>,
        time: Option<Duration>,
    ) -> Result<(), Error> {
        self.order(Verb::Force(named(id)?, time)).await
    }

    /// Forgets pins, directives and forcing; weights decide again.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`].
    pub async fn unpin(&self) -> Result<(), Error> {
        self.order(Verb::Unpin).await
    }

    /// Stops returning to heavier databases by itself. Failing over goes on.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`].
    pub async fn pause_fallback(&self) -> Result<(), Error> {
        self.order(Verb::SetAutoFallback(false)).await
    }

    /// Returns to heavier databases by itself again, at once if one can serve.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`].
    pub async fn resume_fallback(&self) -> Result<(), Error> {
        self.order(Verb::SetAutoFallback(true)).await
    }

    /// Closes the circuit of the database's failure domain and forgets its history.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownDatabase`].
    pub async fn reset_circuit(&self, id: impl AsRef<str>) -> Result<(), Error> {
        self.order(Verb::Reset(named(id)?)).await
    }

    /// Opens the circuit of the database's failure domain until it is reset.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownDatabase`].
    pub async fn force_open_circuit(&self, id: impl AsRef<str>) -> Result<(), Error> {
        self.order(Verb::ForceOpen(named(id)?)).await
    }

    /// A server's word on who serves: compare-and-set on the generation at which it was learnt, so
    /// that any number of callers with the same news make one switch. Outranks weights and pins.
    ///
    /// It stands until a server says otherwise, the target fails, or [`MultiDbClient::unpin`]. A target that
    /// stands by or is suspended when it is asked is asked again, after 50 ms doubling to 1 s; to name the
    /// active one takes that back.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownDatabase`]; [`ErrorKind::Superseded`] for old news, or while forced
    /// elsewhere; [`ErrorKind::Unhealthy`] if the target is not fit now.
    pub async fn direct(
        &self,
        to: impl AsRef<str>,
        observed_generation: u64,
        cause: impl Into<String>,
    ) -> Result<(), Error> {
        self.order(Verb::Direct {
            to: named(to)?,
            observed: observed_generation,
            cause: cause.into(),
        })
        .await
    }

    /// Replaces the set of databases in one step.
    ///
    /// # Errors
    /// [`ErrorKind::Superseded`] for an epoch that is not newer than the last one applied;
    /// [`ErrorKind::LastDatabase`] for an empty set; [`ErrorKind::Invalid`] for a duplicate id.
    pub async fn apply(&self, topology: Topology<B::Endpoint>) -> Result<(), Error> {
        validate(&topology.databases)?;
        let (answer, answered) = oneshot::channel();
        self.send(Mail::Topology {
            epoch: topology.epoch,
            databases: topology.databases,
            answer: Some(answer),
        })?;
        answered.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn order(&self, verb: Verb) -> Result<(), Error> {
        self.post(None, VerbDraft::Ready(verb)).await
    }

    async fn post(
        &self,
        database: Option<Database<B::Endpoint>>,
        verb: VerbDraft,
    ) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        self.send(Mail::Order {
            database,
            verb,
            answer,
        })?;
        // A supervisor that has ended drops what it has not read.
        tokio::select! {
            biased;
            answer = answered => answer.unwrap_or_else(|_| Err(closed())),
            () = self.core().ended.cancelled() => Err(closed()),
        }
    }

    fn send(&self, mail: Mail<B>) -> Result<(), Error> {
        self.core().start_lazily();
        self.core().mailbox.send(mail).map_err(|_| closed())
    }

    /// Ends everything and waits for it: probes, tasks, connections. Calls in flight end with the
    /// class that can be proven; later ones get [`ErrorKind::Closed`]. Idempotent, for all clones.
    pub async fn close(&self) {
        self.core().stop.cancel();
        if let Some(launch) = self.core().launch() {
            // It never ran; let it say so in the usual way.
            launch();
        }
        self.core().ended.cancelled().await;
    }
}

impl<B: Backend> Clone for MultiDbClient<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Backend> fmt::Debug for MultiDbClient<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.snapshot();
        f.debug_struct("MultiDbClient")
            .field("status", &snapshot.status)
            .field("active", &snapshot.active)
            .field("generation", &snapshot.generation)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Drop for Anchor<B> {
    fn drop(&mut self) {
        self.core.stop.cancel();
        // A supervisor that never ran holds the core, which holds the supervisor.
        drop(self.core.launch());
    }
}

// === impl Lease ===

impl<B: Backend> Lease<B> {
    pub(crate) fn pin(core: &Arc<Core<B>>, live: Arc<Live<B>>) -> Self {
        live.conn.calls.pin();
        Self {
            core: core.clone(),
            live,
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core<B>> {
        &self.core
    }

    pub(crate) fn live(&self) -> &Arc<Live<B>> {
        &self.live
    }

    /// The database that the work is pinned to.
    #[must_use]
    pub fn database(&self) -> &DatabaseId {
        &self.live.conn.id
    }

    /// The generation under which the lease was taken.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.live.generation
    }

    /// Which of the client's connections it is, counted by connects. Session state lives and dies with it.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.live.conn.incarnation
    }

    /// The connection.
    #[must_use]
    pub fn handle(&self) -> &B::Handle {
        &self.live.conn.handle
    }

    /// Something that began well on it has ended in a way that counts as a failure of the database.
    #[cfg(feature = "grpc")]
    pub(crate) fn blame(&self) {
        self.live.tally.book_failure(self.live.episode);
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.live.conn.lost.is_lost()
    }
}

impl<B: Backend> Drop for Lease<B> {
    fn drop(&mut self) {
        self.live.conn.calls.unpin();
    }
}

impl<B: Backend> fmt::Debug for Lease<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("database", self.database())
            .field("generation", &self.generation())
            .field("incarnation", &self.incarnation())
            .finish_non_exhaustive()
    }
}

// === helpers ===

/// An id that no member can have is an unknown one.
fn named(id: impl AsRef<str>) -> Result<DatabaseId, Error> {
    DatabaseId::new(id).map_err(|_| Error::new(ErrorKind::UnknownDatabase))
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed)
}

/// What is wrong with a set of databases, if anything is.
pub(crate) fn validate<E>(databases: &[Database<E>]) -> Result<(), ConfigError> {
    for (index, database) in databases.iter().enumerate() {
        let place = format!("databases[{index}]");
        database.validate().map_err(|error| error.within(&place))?;
        if databases[..index]
            .iter()
            .any(|other| other.id == database.id)
        {
            let field = format!("{place}.id");
            let problem = format!("{} is the id of another database", database.id);
            return Err(ConfigError::new(field, problem));
        }
    }
    Ok(())
}
