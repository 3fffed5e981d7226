//! gRPC servers as the engine knows them.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use http::{HeaderMap, Uri};
use tonic::Code;

use super::health;
use super::line::{Http2, Line, Site, is_loss, is_timeout, never_ran};
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
#[derive(Debug)]
#[non_exhaustive]
pub enum GrpcError {
    /// The server answered at once with a status that is none of success: the headers of its response.
    Answered(Box<HeaderMap>),
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
            Self::Answered(headers) => code(headers),
            Self::Transport(_) | Self::Body => None,
        }
    }

    pub(super) fn is_loss(&self) -> bool {
        matches!(self, Self::Transport(error) if is_loss(error))
    }

    pub(super) fn is_timeout(&self) -> bool {
        matches!(self, Self::Transport(error) if is_timeout(error))
    }

    pub(super) fn never_ran(&self) -> bool {
        matches!(self, Self::Transport(error) if never_ran(error))
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
