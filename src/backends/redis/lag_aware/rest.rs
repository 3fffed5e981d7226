//! One request to the REST API of a cluster, and what may go wrong with it.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::pending;
use std::io;

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;

use crate::engine::backend::{Fault, FaultKind};
use crate::sockets::{Tls, Transport, dial, io_fault};

/// Where an API is: `https://host:port`, and perhaps a path before those of the API.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Base {
    secure: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    path: String,
}

/// How a request is sent.
pub(super) struct Client<'a> {
    pub(super) base: &'a Base,
    pub(super) tls: &'a Tls,
    pub(super) authorization: Option<HeaderValue>,
}

/// A complete answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// More than the list of a cluster with thousands of databases takes.
const MAX_BODY: usize = 1 << 20;

// === impl Base ===

impl Base {
    pub(super) fn of(host: &str, port: u16) -> Self {
        Self {
            secure: true,
            host: host.to_owned(),
            port,
            path: String::new(),
        }
    }

    /// A URL without a port has this one. What is wrong is said without repeating the URL, which may hold
    /// a password.
    pub(super) fn parse(url: &str, port: u16, plain_http: bool) -> Result<Self, &'static str> {
        let uri: Uri = url.parse().map_err(|_| "is malformed")?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if plain_http => false,
            Some("http") => return Err("asks for http, which takes plain_http"),
            _ => return Err("is not of the form https://host[:port][/path]"),
        };
        let (Some(authority), Some(host)) = (uri.authority(), uri.host()) else {
            return Err("names no host");
        };
        if authority.as_str().contains('@') {
            return Err("holds a user, who belongs to basic_auth");
        }
        if uri.query().is_some() || url.contains('#') {
            return Err("has a query or a fragment");
        }
        let port = match (authority.as_str().len() > host.len(), authority.port_u16()) {
            (false, _) => port,
            (true, Some(port @ 1..)) => port,
            (true, _) => return Err("has a port that is none"),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("names no host");
        }
        Ok(Self {
            secure,
            host: host.to_owned(),
            port,
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

// === impl Client ===

impl Client<'_> {
    /// Asks once, over a connection of its own: nothing is shared between two databases, nothing stays
    /// behind, and a server that hangs up after each answer is no special case. Sessions of TLS are
    /// resumed. A redirect is an answer like another. Cancel-safe.
    ///
    /// # Errors
    /// A fault without a word of the other side's.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, Fault> {
        let request = self.request(path)?;
        let transport = self.open().await?;
        let io = TokioIo::new(transport);
        let (mut sender, connection) = http1::handshake(io).await.map_err(|e| failed(&e))?;
        // Driven here and not by a task, which would outlive a look that is dropped. Its end shows in the
        // request, which may have its answer nonetheless.
        let driving = async {
            let _ = connection.await;
            pending::<Infallible>().await
        };
        let asking = async {
            let response = sender.send_request(request).await;
            let response = response.map_err(|e| failed(&e))?;
            let status = response.status();
            // Counted as it comes: a length that is announced is no proof, and need not be there.
            let body = Limited::new(response.into_body(), MAX_BODY);
            let body = body.collect().await.map_err(|e| failed(&*e))?.to_bytes();
            Ok(Answer { status, body })
        };
        tokio::select! {
            biased;
            answer = asking => answer,
            never = driving => match never {},
        }
    }

    async fn open(&self) -> Result<Box<dyn Transport>, Fault> {
        let Base {
            secure, host, port, ..
        } = self.base;
        let stream = dial(host, *port).await.map_err(|e| io_fault(&e))?;
        let nodelay = stream.set_nodelay(true);
        nodelay.map_err(|e| io_fault(&e))?;
        if !secure {
            return Ok(Box::new(stream));
        }
        let tls = self.tls.at(host);
        let tls = tls.map_err(|_| Fault::new(FaultKind::Other, "no host for a certificate"))?;
        tls.secure(Box::new(stream)).await.map_err(|e| io_fault(&e))
    }

    fn request(&self, path: &str) -> Result<Request<Empty<Bytes>>, Fault> {
        let mut request = Request::get(format!("{}{path}", self.base.path))
            .header(HOST, self.base.to_string())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("multidb/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::new());
        request.map_err(|_| Fault::new(FaultKind::Other, "no request can be made for its host"))
    }
}

/// Credentials as RFC 7617 has them; none if they cannot be sent so.
pub(super) fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let control = |text: &str| text.chars().any(char::is_control);
    if user.contains(':') || control(user) || control(password) {
        return None;
    }
    let encoded = base64(format!("{user}:{password}").as_bytes());
    let mut value = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// As RFC 4648 has it; no crate of ours needs it otherwise.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let of = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let bits = of(0) << 16 | of(1) << 8 | of(2);
        for index in 0..4 {
            let sextet = (bits >> (18 - 6 * index)) & 63;
            text.push(match index <= chunk.len() {
                true => char::from(ALPHABET[sextet as usize]),
                false => '=',
            });
        }
    }
    text
}

/// What a failure of HTTP says, by its kind alone.
fn failed(error: &(dyn Error + 'static)) -> Fault {
    let mut sources = std::iter::successors(Some(error), |&error| error.source());
    if let Some(io) = sources.find_map(|error| error.downcast_ref::<io::Error>()) {
        return io_fault(io);
    }
    let (kind, what) = match error.downcast_ref::<hyper::Error>() {
        _ if error.is::<LengthLimitError>() => (FaultKind::Other, "more than 1 MiB in an answer"),
        Some(error) if error.is_parse() || error.is_parse_status() => {
            (FaultKind::Other, "it does not speak HTTP")
        }
        Some(error) if error.is_incomplete_message() || error.is_canceled() => {
            (FaultKind::Lost, "connection lost")
        }
        _ => (FaultKind::Other, "HTTP failed"),
    };
    Fault::new(kind, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "canary-7f3a";

    #[test]
    fn a_base_is_taken_apart_and_the_path_of_a_proxy_kept() {
        let parsed = |url: &str, plain| {
            let base = Base::parse(url, 9443, plain).unwrap();
            (base.secure, base.to_string(), base.path)
        };
        let is = |secure, authority: &str, path: &str| (secure, authority.into(), path.into());
        for (url, plain, expected) in [
            ("https://db.example", false, is(true, "db.example:9443", "")),
            (
                "https://db.example:443/",
                false,
                is(true, "db.example:443", ""),
            ),
            ("https://[::1]/rs/", false, is(true, "[::1]:9443", "/rs")),
            ("https://[::1]:1", true, is(true, "[::1]:1", "")),
            ("http://127.0.0.1:80", true, is(false, "127.0.0.1:80", "")),
        ] {
            assert_eq!(parsed(url, plain), expected, "{url}");
        }
    }

    #[test]
    fn a_base_that_cannot_work_is_refused_without_repeating_it() {
        for url in [
            "",
            "db.example",
            "db.example:9443",
            "ftp://db.example",
            "https://",
            "https://:9443",
            "https://db.example:",
            "https://db.example:0",
            "https://db.example:70000",
            "https://db.example?x=1",
            "https://db.example/#x",
            "https://db example",
            "https://bob:canary-7f3a@db.example",
            "http://db.example",
        ] {
            let problem = Base::parse(url, 9443, false).map(|base| base.to_string());
            let problem = problem.expect_err(url);
            assert!(!problem.contains(SECRET), "{problem}");
        }
    }

    /// The vectors of RFC 4648, and the example of RFC 7617.
    #[test]
    fn credentials_are_encoded_as_the_standards_have_it_and_never_shown() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
        let value = basic("Aladdin", "open sesame").unwrap();
        assert_eq!(value, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(!format!("{value:?}").contains("QWxh"), "{value:?}");
        for (user, password) in [("a:b", "x"), ("a\n", "x"), ("a", "x\r\ny")] {
            assert!(basic(user, password).is_none(), "{user:?} {password:?}");
        }
    }
}
