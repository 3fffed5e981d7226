//! Putting an e6data client together.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};

use super::backend::E6data;
use super::client::{E6dataClient, Settings, not_started};
use super::colour::Colour;
use super::endpoint::{Credentials, E6dataEndpoint, Facts, StackCheck};
use super::error::E6dataError;
#[cfg(doc)]
use super::error::E6dataErrorKind;
use super::resume::Resumer;
use crate::backends::grpc::{Http2, Site};
use crate::engine::backend::{FaultKind, Verdict};
use crate::engine::builder::Builder;
use crate::engine::client::MultiDbClient;
use crate::engine::config::{Config, Sensitivity, StartPolicy};
use crate::engine::database::Database;
use crate::engine::error::{ConfigError, Error, ErrorKind};
use crate::engine::last_active::LastActive;
#[cfg(unix)]
use crate::engine::last_active::LastActiveFile;
use crate::engine::snapshot::{Snapshot, Status};
use crate::sockets::TlsConfig;

/// Makes an [`E6dataClient`]. Nothing is done before [`E6dataBuilder::connect`]; nothing is validated before
/// either.
///
/// The defaults are those of e6data's connector for Python where it has one, and said where not.
#[must_use]
pub struct E6dataBuilder {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: String,
    bearer: Option<String>,
    pub(super) catalog: String,
    pub(super) database: String,
    pub(super) cluster_name: String,
    pub(super) secure: bool,
    tls: Option<TlsConfig>,
    weights: [f64; 2],
    blue_green: bool,
    auto_rollback: bool,
    check: StackCheck,
    lenient: bool,
    batches_v2: Option<bool>,
    pub(super) auto_resume: bool,
    pub(super) auto_resume_timeout: Duration,
    pub(super) detection_timeout: Duration,
    pub(super) operation_timeout: Duration,
    cleanup_timeout: Duration,
    pub(super) keepalive_interval: Duration,
    pub(super) keepalive_timeout: Duration,
    pub(super) max_receive: usize,
    pub(super) max_send: usize,
    pub(super) attempts: u32,
    pub(super) backoff: Duration,
    /// How old a hint of which stack served may be.
    pub(super) hint_max_age: Duration,
    #[cfg(unix)]
    hint_file: Option<std::path::PathBuf>,
    config: Config,
    extend: Vec<Extension>,
}

type Extension = Box<dyn FnOnce(Builder<E6data>) -> Builder<E6data> + Send>;

impl E6dataBuilder {
    pub(super) fn new() -> Self {
        let mut config = Config::default();
        config.calls.connect_timeout = Duration::from_secs(5);
        // A query is silent for as long as it runs: half of this passes before the stack is asked whether it is
        // alive still. Health rounds ask it every few seconds anyway.
        config.sensitivity = Sensitivity::Custom(Duration::from_secs(60));
        config.start.policy = StartPolicy::One;
        Self {
            host: String::new(),
            port: 80,
            user: String::new(),
            password: String::new(),
            bearer: None,
            catalog: String::new(),
            database: String::new(),
            cluster_name: String::new(),
            secure: false,
            tls: None,
            weights: [1.0, 1.0],
            blue_green: true,
            auto_rollback: false,
            check: StackCheck::default(),
            lenient: false,
            batches_v2: None,
            auto_resume: true,
            auto_resume_timeout: Duration::from_secs(300),
            detection_timeout: Duration::from_secs(30),
            operation_timeout: Duration::from_secs(600),
            cleanup_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            max_receive: 1 << 30,
            max_send: 300 << 20,
            attempts: 5,
            backoff: Duration::from_millis(200),
            hint_max_age: Duration::from_secs(300),
            #[cfg(unix)]
            hint_file: None,
            config,
            extend: Vec::new(),
        }
    }

    /// The host of the cluster: a name or an address.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// Its port. Default 80.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Who asks.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = user.into();
        self
    }

    /// The password, or the personal access token that stands for one.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = password.into();
        self
    }

    /// An OAuth token, sent with every rpc instead of a session.
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.bearer = Some(token.into());
        self
    }

    /// The catalog of connections. Default none: then the server's older methods are used.
    pub fn catalog(mut self, catalog: impl Into<String>) -> Self {
        self.catalog = catalog.into();
        self
    }

    /// The schema of connections. Default none.
    pub fn database(mut self, database: impl Into<String>) -> Self {
        self.database = database.into();
        self
    }

    /// The cluster's name, for a gateway in front of several. Sent in lower case. Default none.
    pub fn cluster_name(mut self, name: impl Into<String>) -> Self {
        self.cluster_name = name.into();
        self
    }

    /// Whether TLS is spoken, with the certificates that the system trusts. Default false.
    pub fn secure(mut self, on: bool) -> Self {
        self.secure = on;
        self
    }

    /// Speaks TLS, and says whom to trust and who we are.
    pub fn tls(mut self, config: TlsConfig) -> Self {
        self.secure = true;
        self.tls = Some(config);
        self
    }

    /// How much each stack is wanted while both serve and the server names neither. Default 1 and 1: blue.
    pub fn weights(mut self, blue: f64, green: f64) -> Self {
        self.weights = [blue, green];
        self
    }

    /// Whether the cluster has two stacks. Default true; a cluster that knows nothing of colours takes no
    /// notice of them, at the cost of a second connection.
    pub fn blue_green(mut self, on: bool) -> Self {
        self.blue_green = on;
        self
    }

    /// Whether a stack that goes bad is left for the other one, if that serves: each then has a circuit of its
    /// own. Default false: the stacks share an endpoint, and what is wrong with it is wrong with both.
    pub fn auto_rollback(mut self, on: bool) -> Self {
        self.auto_rollback = on;
        self
    }

    /// How a stack is asked whether it serves. Default [`StackCheck::Authenticate`].
    pub fn check(mut self, check: StackCheck) -> Self {
        self.check = check;
        self
    }

    /// Takes INVALID_ARGUMENT, too, for the refusal of a colour, as the connector's own mock server says it.
    /// Default false.
    pub fn lenient(mut self, on: bool) -> Self {
        self.lenient = on;
        self
    }

    /// Whether several batches are fetched at once (`getNextResultBatchV2`); a server that cannot is asked for
    /// them one by one. Default: with a bearer token.
    pub fn batches_v2(mut self, on: bool) -> Self {
        self.batches_v2 = Some(on);
        self
    }

    /// Whether a suspended cluster is resumed when it is needed. Default true.
    pub fn auto_resume(mut self, on: bool) -> Self {
        self.auto_resume = on;
        self
    }

    /// How long that may take. Default 300 s.
    pub fn auto_resume_timeout(mut self, timeout: Duration) -> Self {
        self.auto_resume_timeout = timeout;
        self
    }

    /// How long `connect` waits for a stack that serves. Default 30 s.
    pub fn detection_timeout(mut self, timeout: Duration) -> Self {
        self.detection_timeout = timeout;
        self
    }

    /// How long an rpc may take, and a whole statement until its rows can be read. Default 600 s.
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// How long it may take to clear a query. Default 10 s.
    pub fn cleanup_timeout(mut self, timeout: Duration) -> Self {
        self.cleanup_timeout = timeout;
        self
    }

    /// When a silent connection is asked for a sign of life, and how long that may take (HTTP/2 PING). Default
    /// 30 s and 10 s; the connector for Python waits for 900 s.
    pub fn keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        (self.keepalive_interval, self.keepalive_timeout) = (interval, timeout);
        self
    }

    /// The largest message taken and sent, in bytes. Default 1 GiB and 300 MiB; the connector for Python
    /// takes any.
    pub fn message_sizes(mut self, receive: usize, send: usize) -> Self {
        (self.max_receive, self.max_send) = (receive, send);
        self
    }

    /// How often a statement is handed over that was refused without having run. Default 5.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Begins with the stack that served last, as this hint has it; see
    /// [`LastActive`](crate::LastActive). Default: the weights say where to begin.
    pub fn last_active(self, hint: impl LastActive) -> Self {
        self.with(|engine| engine.last_active(hint))
    }

    /// As [`E6dataBuilder::last_active`], with a file that the processes of one user share; what is older than
    /// 300 s is not believed. See [`LastActiveFile`](crate::LastActiveFile).
    #[cfg(unix)]
    pub fn last_active_file(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.hint_file = Some(path.into());
        self
    }

    /// The engine's configuration: health rounds, circuits, drains. Its call timeouts and its start policy
    /// are overridden by the settings here.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Anything else that the engine's builder can do: listeners, strategies, checks of your own.
    pub fn with(
        mut self,
        change: impl FnOnce(Builder<E6data>) -> Builder<E6data> + Send + 'static,
    ) -> Self {
        self.extend.push(Box::new(change));
        self
    }

    /// Connects to both stacks and waits until one serves.
    ///
    /// Within `detection_timeout`; a suspended cluster that is being resumed, within `auto_resume_timeout`.
    /// Dropping the future ends the client.
    ///
    /// # Errors
    /// [`E6dataErrorKind::Invalid`] before any I/O; [`E6dataErrorKind::NoServingStack`],
    /// [`E6dataErrorKind::Suspended`], [`E6dataErrorKind::Denied`], or the engine's
    /// [`ErrorKind::NotStarted`] with the first fault.
    pub async fn connect(self) -> Result<E6dataClient, E6dataError> {
        let (detection, resume) = (self.detection_timeout, self.auto_resume_timeout);
        let resumes = self.auto_resume;
        let client = self.connect_lazy()?;
        let engine = client.engine();
        let began = Instant::now();
        let settled =
            |snapshot: &Snapshot| snapshot.status == Status::Serving || has_failed(snapshot);
        let mut shown = timeout_at(began + detection, engine.wait_for(settled)).await;
        if shown.is_err() && resumes && is_suspended(&engine.snapshot()) {
            shown = timeout_at(began + resume, engine.wait_for(settled)).await;
        }
        match shown {
            Ok(Ok(snapshot)) if snapshot.status == Status::Serving => Ok(client),
            _ => {
                let error = not_started(engine, Error::new(ErrorKind::NotStarted));
                client.close().await;
                Err(error)
            }
        }
    }

    /// A client that connects with its first query. No I/O, and no runtime is needed yet.
    ///
    /// # Errors
    /// [`E6dataErrorKind::Invalid`].
    pub fn connect_lazy(self) -> Result<E6dataClient, E6dataError> {
        let settings = self.settings()?;
        let credentials = Arc::new(self.credentials()?);
        let site = self.site()?;
        let cluster_name = self.cluster_header()?;
        let check = match &*credentials {
            Credentials::Password { .. } => self.check,
            Credentials::Bearer(_) => StackCheck::HealthCheck,
        };
        let mut config = self.config;
        config.calls.response_timeout = self.operation_timeout;
        config.calls.deadline = self.operation_timeout;
        config.start.policy = StartPolicy::One;
        let resumer = self
            .auto_resume
            .then(|| Resumer::new(self.auto_resume_timeout));
        let backend = E6data::new(resumer);
        let herald = backend.herald.clone();
        let mut builder = Builder::new(backend).config(config);
        let stacks = match self.blue_green {
            true => Colour::BOTH.map(Some).to_vec(),
            false => vec![None],
        };
        for (colour, weight) in stacks.into_iter().zip(self.weights) {
            let endpoint = E6dataEndpoint(Arc::new(Facts {
                site: site.clone(),
                colour,
                cluster_name: cluster_name.clone(),
                credentials: credentials.clone(),
                check,
                lenient: self.lenient,
                max_receive: self.max_receive,
                max_send: self.max_send,
                patience: self.detection_timeout,
            }));
            let id = colour.map_or("e6data", Colour::as_str);
            let mut database = Database::new(id, endpoint)?.weight(weight)?;
            if !self.auto_rollback && colour.is_some() {
                database = database.failure_domain(site.name())?;
            }
            builder = builder.database(database);
        }
        #[cfg(unix)]
        if let Some(path) = self.hint_file {
            builder = builder.last_active(LastActiveFile::new(path).max_age(self.hint_max_age));
        }
        let builder = self
            .extend
            .into_iter()
            .fold(builder, |builder, change| change(builder));
        let client: MultiDbClient<E6data> = builder.connect_lazy()?;
        herald.serve(Arc::downgrade(client.core()));
        Ok(E6dataClient::new(client, settings))
    }

    fn settings(&self) -> Result<Settings, ConfigError> {
        let longest = Duration::from_secs(86_400);
        for (field, time) in [
            ("operation_timeout", self.operation_timeout),
            ("cleanup_timeout", self.cleanup_timeout),
            ("detection_timeout", self.detection_timeout),
            ("auto_resume_timeout", self.auto_resume_timeout),
            ("keepalive.interval", self.keepalive_interval),
            ("keepalive.timeout", self.keepalive_timeout),
        ] {
            if time < Duration::from_millis(1) || time > longest {
                return Err(ConfigError::new(field, "must be 1 ms to 24 h"));
            }
        }
        if self.attempts == 0 || self.attempts > 100 {
            return Err(ConfigError::new("attempts", "must be 1 to 100"));
        }
        for (field, size) in [
            ("message_sizes.receive", self.max_receive),
            ("message_sizes.send", self.max_send),
        ] {
            if size < 1024 {
                return Err(ConfigError::new(field, "must be 1 KiB at least"));
            }
        }
        Ok(Settings {
            catalog: self.catalog.as_str().into(),
            database: self.database.as_str().into(),
            operation_timeout: self.operation_timeout,
            cleanup_timeout: self.cleanup_timeout,
            attempts: self.attempts,
            backoff: self.backoff,
            batches_v2: self.batches_v2.unwrap_or(self.bearer.is_some()),
            lenient: self.lenient,
        })
    }

    fn credentials(&self) -> Result<Credentials, ConfigError> {
        if let Some(token) = &self.bearer {
            let mut header = format!("Bearer {token}")
                .parse::<MetadataValue<Ascii>>()
                .map_err(|_| ConfigError::new("bearer_token", "cannot be sent in a header"))?;
            header.set_sensitive(true);
            return Ok(Credentials::Bearer(header));
        }
        match (self.user.is_empty(), self.password.is_empty()) {
            (true, _) => Err(ConfigError::new("user", "must not be empty")),
            (_, true) => Err(ConfigError::new("password", "must not be empty")),
            _ => Ok(Credentials::Password {
                user: self.user.clone(),
                password: self.password.clone(),
            }),
        }
    }

    fn site(&self) -> Result<Site, ConfigError> {
        if self.host.is_empty() {
            return Err(ConfigError::new("host", "must not be empty"));
        }
        let tls = self.secure.then(|| self.tls.clone().unwrap_or_default());
        let http2 = Http2 {
            keepalive_interval: self.keepalive_interval,
            keepalive_timeout: self.keepalive_timeout,
        };
        Site::new(&self.host, self.port, tls, http2)
    }

    fn cluster_header(&self) -> Result<Option<MetadataValue<Ascii>>, ConfigError> {
        if self.cluster_name.is_empty() {
            return Ok(None);
        }
        let header = self.cluster_name.to_lowercase().parse();
        let header =
            header.map_err(|_| ConfigError::new("cluster_name", "cannot be sent in a header"))?;
        Ok(Some(header))
    }
}

impl std::fmt::Debug for E6dataBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("E6dataBuilder")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Whether waiting will not help: every stack has failed, or the one that serves does not know us.
fn has_failed(snapshot: &Snapshot) -> bool {
    let verdicts = || {
        snapshot
            .members
            .iter()
            .map(|member| member.verdict.as_ref())
    };
    let faults = || {
        verdicts().filter_map(|verdict| match verdict {
            Some(Verdict::Unhealthy(fault)) => Some(fault.kind),
            _ => None,
        })
    };
    let known = verdicts().all(|verdict| verdict.is_some());
    let all = faults().count() == snapshot.members.len();
    let denied = faults().any(|kind| kind == FaultKind::Denied);
    known && !snapshot.members.is_empty() && (all || denied)
}

fn is_suspended(snapshot: &Snapshot) -> bool {
    let mut members = snapshot.members.iter();
    members.any(|member| member.verdict == Some(Verdict::Suspended))
}
