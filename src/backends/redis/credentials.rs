//! Credentials that change: rotated passwords, and tokens that expire.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{RedisConnectionInfo, cmd};
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, sleep_until};

use super::endpoint::RedisEndpoint;
use crate::engine::backend::Fault;

/// Says who we are at a database, anew for every connection: a vault, a token service, a file.
///
/// Asked before each connection is made, within `calls.connect_timeout`, and again before what it gave
/// expires. Its future is dropped when the time is up, so it must be cancel-safe. What should not be
/// fetched for every connection is for the provider to keep.
pub trait CredentialsProvider: Send + Sync + 'static {
    /// Who we are now.
    ///
    /// # Errors
    /// A [`Fault`], of the kind `Denied` if trying again will not help. It must not hold a secret.
    fn credentials<'a>(
        &'a self,
        endpoint: &'a RedisEndpoint,
    ) -> BoxFuture<'a, Result<Credentials, Fault>>;
}

/// A user and a password or token. Never shown.
#[derive(Clone)]
pub struct Credentials {
    user: Option<String>,
    password: String,
    expires: Option<Instant>,
}

/// A provider as an endpoint keeps it.
#[derive(Clone)]
pub(super) struct Provider(Arc<dyn CredentialsProvider>);

/// What is left when new ones are asked for: a fifth of the time.
const RENEW_AT: f64 = 0.8;
/// Between two attempts to renew.
const PAUSE: Duration = Duration::from_secs(1);

// === impl Credentials ===

impl Credentials {
    /// Of the default user, for ever.
    pub fn new(password: impl Into<String>) -> Self {
        Self {
            user: None,
            password: password.into(),
            expires: None,
        }
    }

    /// Of this user.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Valid for so long. When four fifths of it are over, the provider is asked for new ones, and the
    /// connections that stand authenticate with them.
    #[must_use]
    pub fn expires_in(mut self, lifetime: Duration) -> Self {
        self.expires = Instant::now().checked_add(lifetime);
        self
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

// === impl Provider ===

impl Provider {
    pub(super) fn new(provider: impl CredentialsProvider) -> Self {
        Self(Arc::new(provider))
    }

    async fn ask(&self, endpoint: &RedisEndpoint) -> Result<Credentials, Fault> {
        self.0.credentials(endpoint).await
    }
}

/// How a connection greets, and when that is over.
pub(super) async fn greeting(
    endpoint: &RedisEndpoint,
) -> Result<(Cow<'_, RedisConnectionInfo>, Option<Instant>), Fault> {
    let Some(provider) = endpoint.provider() else {
        return Ok((Cow::Borrowed(endpoint.info()), None));
    };
    let Credentials {
        user,
        password,
        expires,
    } = provider.ask(endpoint).await?;
    let mut info = endpoint.info().clone().set_password(password);
    if let Some(user) = user {
        info = info.set_username(user);
    }
    Ok((Cow::Owned(info), expires))
}

/// Keeps a connection authenticated. Ends with the connection, or when nothing expires any more.
pub(super) async fn renew(
    endpoint: RedisEndpoint,
    mut con: MultiplexedConnection,
    mut expires: Instant,
) {
    let Some(provider) = endpoint.provider().cloned() else {
        return;
    };
    loop {
        let now = Instant::now();
        let left = expires.saturating_duration_since(now);
        sleep_until(now + left.mul_f64(RENEW_AT)).await;
        expires = loop {
            if let Ok(Credentials {
                user,
                password,
                expires,
            }) = provider.ask(&endpoint).await
            {
                let mut auth = cmd("AUTH");
                auth.arg(user).arg(password);
                let sent = con.send_packed_command(&auth).await;
                match sent.and_then(|reply| reply.extract_error()) {
                    Ok(_) => match expires {
                        Some(expires) => break expires,
                        None => return,
                    },
                    Err(error) if error.is_io_error() => return,
                    // Refused: the connection goes on as it was.
                    Err(_) => {}
                }
            }
            sleep(PAUSE).await;
        };
    }
}
