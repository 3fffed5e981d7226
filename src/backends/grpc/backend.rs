//! gRPC servers as the engine knows them.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use http::response::Parts;
use http::{HeaderMap, StatusCode, Uri};
use tonic::Code;

use super::health;
use super::line::{Http2, Line, Site, is_loss, is_own_doing, is_timeout, never_ran};
use crate::engine::backend::{Backend, Depth, Fault, Verdict, Wiring};
use crate::engine::database::Database;
use crate::engine::error::ConfigError;
use crate::sockets::TlsConfig;

/// The backend. Made by [`MultiDbChannel::builder`](super::MultiDbChannel::builder).
#[derive(Debug, Default)]
pub struct Grpc {
    pub(super) idempotent: HashSet<String>,
}

/// Where a server is, and how it is asked for its health.
#[derive(Clone, Debug)]
pub struct GrpcEndpoint {
    site: Site,
    service: String,
}

/// A connection to a server. Clones share it.
#[derive(Clone)]
pub struct GrpcHandle {
    pub(super) line: Line,
    service: String,
}

/// Why a call did not work.
#[non_exhaustive]
pub enum GrpcError {
    /// The server answered at once with a status that is none of success, of gRPC or of HTTP: the head of its
    /// response. It may hold anything, so that neither `Debug` nor `Display` shows more of it than the code.
    Answered(Box<Parts>),
    /// The transport failed.
    Transport(tonic::transport::Error),
    /// The request's own body failed, or could not be sent a second time.
    Body,
}

impl GrpcEndpoint {
    /// A server at `http://host:port` or `https://host:port`; the ports are 80 and 443 where none is given.
    ///
    /// # Errors
    /// [`ConfigError`] for the field `uri`.
    pub fn new(uri: impl AsRef<str>) -> Result<Self, ConfigError> {
        let wrong = |problem| ConfigError::new("uri", problem);
        let uri: Uri = uri.as_ref().parse().map_err(|_| wrong("is not a URI"))?;
        let (port, tls) = match uri.scheme_str() {
            Some("http") => (80, None),
            Some("https") => (443, Some(TlsConfig::new())),
            _ => return Err(wrong("must begin with http:// or https://")),
        };
        if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(wrong("must not hold credentials"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("must not have a path"));
        }
        let host = uri.host().ok_or_else(|| wrong("names no host"))?;
        let http2 = Http2 {
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
        };
        let site = Site::new(host, uri.port_u16().unwrap_or(port), tls, http2);
        Ok(Self {
            site: site.map_err(|error| error.renamed("uri"))?,
            service: String::new(),
        })
    }

    /// Host and port.
    #[must_use]
    pub fn name(&self) -> &str {
        self.site.name()
    }

    /// Whom to trust and who we are, where the URI begins with `https`.
    ///
    /// # Errors
    /// [`ConfigError`] for the field `tls` if it does not.
    pub fn tls(self, config: TlsConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            site: self.site.secured(config)?,
            ..self
        })
    }

    /// When a silent connection is asked for a sign of life, and how long that may take (HTTP/2 PING). Default
    /// 30 s and 10 s.
    ///
    /// # Errors
    /// [`ConfigError`] for the fields `keepalive.interval` and `keepalive.timeout`: each must be 1 ms to 24 h.
    pub fn keepalive(self, interval: Duration, timeout: Duration) -> Result<Self, ConfigError> {
        for (field, time) in [
            ("keepalive.interval", interval),
            ("keepalive.timeout", timeout),
        ] {
            if time < Duration::from_millis(1) || time > Duration::from_secs(24 * 3_600) {
                return Err(ConfigError::new(field, "must be 1 ms to 24 h"));
            }
        }
        let http2 = Http2 {
            keepalive_interval: interval,
            keepalive_timeout: timeout,
        };
        Ok(Self {
            site: self.site.tuned(http2),
            ..self
        })
    }

    /// The service that the server is asked about by the health checking protocol. Default: the server as a
    /// whole. One that does not have the protocol is taken to be well as long as it answers.
    #[must_use]
    pub fn health_service(mut self, name: impl Into<String>) -> Self {
        self.service = name.into();
        self
    }
}

impl Backend for Grpc {
    type Endpoint = GrpcEndpoint;
    type Handle = GrpcHandle;
    type Error = GrpcError;

    async fn connect(
        &self,
        database: &Database<GrpcEndpoint>,
        wiring: Wiring,
    ) -> Result<GrpcHandle, Fault> {
        let endpoint = database.endpoint();
        Ok(GrpcHandle {
            line: Line::open(&endpoint.site, &wiring).await?,
            service: endpoint.service.clone(),
        })
    }

    async fn check(&self, handle: &GrpcHandle, _: Depth) -> Verdict {
        health::check(&handle.line, &handle.service).await
    }

    fn abort(&self, handle: &GrpcHandle) {
        handle.line.abort();
    }
}

impl GrpcError {
    /// The status that the server answered with.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Answered(head) => head_code(head.status, &head.headers),
            Self::Transport(_) | Self::Body => None,
        }
    }

    pub(super) fn is_loss(&self) -> bool {
        matches!(self, Self::Transport(error) if is_loss(error))
    }

    pub(super) fn is_timeout(&self) -> bool {
        matches!(self, Self::Transport(error) if is_timeout(error))
    }

    pub(super) fn is_own_doing(&self) -> bool {
        matches!(self, Self::Transport(error) if is_own_doing(error))
    }

    pub(super) fn never_ran(&self) -> bool {
        matches!(self, Self::Transport(error) if never_ran(error))
    }
}

impl fmt::Debug for GrpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(_) => f.debug_tuple("Answered").field(&self.code()).finish(),
            Self::Transport(error) => f.debug_tuple("Transport").field(error).finish(),
            Self::Body => f.write_str("Body"),
        }
    }
}

impl fmt::Display for GrpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(_) => write!(f, "answered {:?}", self.code().unwrap_or(Code::Unknown)),
            Self::Transport(error) => error.fmt(f),
            Self::Body => f.write_str("the request could not be sent"),
        }
    }
}

impl std::error::Error for GrpcError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Transport(error) => Some(error),
            Self::Answered(_) | Self::Body => None,
        }
    }
}

/// The status in headers or trailers, if there is one.
pub(super) fn code(headers: &HeaderMap) -> Option<Code> {
    let status = headers.get("grpc-status")?;
    Some(Code::from_bytes(status.as_bytes()))
}

/// What the head of a response says; `None`: its status comes at its end. A proxy without a server behind it
/// answers by HTTP alone (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
pub(super) fn head_code(status: StatusCode, headers: &HeaderMap) -> Option<Code> {
    code(headers).or(match status.as_u16() {
        200 => None,
        400 => Some(Code::Internal),
        401 => Some(Code::Unauthenticated),
        403 => Some(Code::PermissionDenied),
        404 => Some(Code::Unimplemented),
        429 | 502..=504 => Some(Code::Unavailable),
        _ => Some(Code::Unknown),
    })
}

/// What counts against a server: that it failed, not that it was asked for what it cannot give.
pub(super) fn is_failing(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Internal
            | Code::Unknown
            | Code::DataLoss
            | Code::DeadlineExceeded
    )
}
