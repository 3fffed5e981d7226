//! Whom to trust, and who we are, where a database is reached by TLS.

use std::fmt;
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};

use crate::engine::error::ConfigError;

/// How a `rediss://` database is greeted: TLS 1.2 or 1.3.
///
/// By default the certificates that the system trusts are trusted, no certificate of our own is shown,
/// and the server's must be valid for the host of the URL. What is given is checked when it is given.
/// Keys are never shown.
///
/// ```no_run
/// use multidb::redis::{RedisEndpoint, TlsConfig};
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = TlsConfig::new()
///     .ca_pem(std::fs::read("ca.pem")?)?
///     .client_identity_pem(std::fs::read("client.pem")?, std::fs::read("client.key")?)?;
/// let endpoint = RedisEndpoint::parse("rediss://east.example:6380")?.tls(tls)?;
/// # let _ = endpoint;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct TlsConfig {
    /// The system's, if there are none.
    roots: Option<RootCertStore>,
    identity: Option<Arc<CertifiedKey>>,
    server_name: Option<ServerName<'static>>,
    insecure: bool,
}

/// One endpoint's share in TLS. Clones have the same client, so that sessions are resumed.
#[derive(Clone)]
pub(crate) struct Tls {
    config: TlsConfig,
    name: ServerName<'static>,
    /// The protocol to be spoken, where the server has to be told by ALPN.
    protocol: Option<&'static [u8]>,
    /// Made once, not per connect; at first use, because a default that is replaced need not read the
    /// system's certificates.
    client: Arc<OnceLock<Result<Arc<ClientConfig>, ConfigError>>>,
}

impl TlsConfig {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these certificates instead of the system's: one or more, as PEM. More may be added by
    /// further calls.
    ///
    /// # Errors
    /// [`ConfigError`] for the field `ca_pem` if there is none, or one that cannot be read.
    pub fn ca_pem(mut self, pem: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let roots = self.roots.get_or_insert_with(RootCertStore::empty);
        for certificate in certificates("ca_pem", pem.as_ref())? {
            let added = roots.add(certificate);
            added.map_err(|_| ConfigError::new("ca_pem", "holds a malformed certificate"))?;
        }
        Ok(self)
    }

    /// Shows this certificate to a server that asks for one: the chain as PEM, our own first, and its
    /// private key as PEM (PKCS#8, PKCS#1 or SEC1, unencrypted).
    ///
    /// # Errors
    /// [`ConfigError`] for the field `client_cert_pem` or `client_key_pem`, also if the two do not
    /// belong together.
    pub fn client_identity_pem(
        mut self,
        cert: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Result<Self, ConfigError> {
        let wrong_key = |problem| ConfigError::new("client_key_pem", problem);
        let chain = certificates("client_cert_pem", cert.as_ref())?;
        let key = PrivateKeyDer::from_pem_slice(key.as_ref())
            .map_err(|_| wrong_key("holds no private key in PEM"))?;
        let key = ring::default_provider()
            .key_provider
            .load_private_key(key)
            .map_err(|_| wrong_key("is of an unknown kind, or malformed"))?;
        let identity = CertifiedKey::new(chain, key);
        match identity.keys_match() {
            Ok(()) => {}
            Err(TlsError::InconsistentKeys(_)) => {
                return Err(wrong_key("does not belong to the certificate"));
            }
            Err(_) => {
                return Err(ConfigError::new(
                    "client_cert_pem",
                    "holds a malformed certificate",
                ));
            }
        }
        self.identity = Some(Arc::new(identity));
        Ok(self)
    }

    /// Asks for this server, by SNI, and expects a certificate for it, instead of the URL's host. A host
    /// name or an IP address, of which none is sent.
    ///
    /// # Errors
    /// [`ConfigError`] for the field `server_name`.
    pub fn server_name(mut self, name: impl AsRef<str>) -> Result<Self, ConfigError> {
        let name = ServerName::try_from(name.as_ref().to_owned()).map_err(|_| {
            ConfigError::new("server_name", "is neither a host name nor an address")
        })?;
        self.server_name = Some(name);
        Ok(self)
    }

    /// Takes whatever certificate the server shows: whoever can intercept the connection can then read
    /// and change everything. The same as `#insecure` at the end of a URL.
    #[must_use]
    pub fn danger_accept_invalid_certs(mut self) -> Self {
        self.insecure = true;
        self
    }

    fn name_of(&self, host: &str) -> Result<ServerName<'static>, ConfigError> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => ServerName::try_from(host.to_owned())
                .map_err(|_| ConfigError::new("url", "names a host that no certificate can name")),
        }
    }

    fn client(&self) -> Result<ClientConfig, ConfigError> {
        // Given explicitly: the process may have no default provider, or another one.
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|_| ConfigError::new("tls", "no version of TLS is available"))?;
        let builder = if self.insecure {
            let anyone = Arc::new(Anyone(provider));
            builder.dangerous().with_custom_certificate_verifier(anyone)
        } else {
            builder.with_root_certificates(match &self.roots {
                Some(roots) => roots.clone(),
                None => system_roots()?,
            })
        };
        Ok(match &self.identity {
            Some(identity) => {
                let identity = CertifiedKey::clone(identity);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
            }
            None => builder.with_no_client_auth(),
        })
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig")
            .field("own_roots", &self.roots.as_ref().map(RootCertStore::len))
            .field("client_identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .field("insecure", &self.insecure)
            .finish()
    }
}

// === impl Tls ===

impl Tls {
    /// To `host`, unless the configuration names another server.
    pub(crate) fn new(host: &str, config: TlsConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            name: config.name_of(host)?,
            config,
            protocol: None,
            client: Arc::default(),
        })
    }

    /// Tells the server by ALPN what will be spoken. To be called before the first connection.
    #[cfg(feature = "grpc")]
    pub(crate) fn speaking(self, protocol: &'static [u8]) -> Self {
        Self {
            protocol: Some(protocol),
            client: Arc::default(),
            ..self
        }
    }

    /// The same client to another host.
    #[cfg(feature = "redis-rustls")]
    pub(crate) fn at(&self, host: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            name: self.config.name_of(host)?,
            ..self.clone()
        })
    }

    #[cfg(feature = "redis-rustls")]
    pub(crate) fn is_insecure(&self) -> bool {
        self.config.insecure
    }

    pub(crate) fn name(&self) -> &ServerName<'static> {
        &self.name
    }

    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>, ConfigError> {
        let made = self.client.get_or_init(|| {
            let mut client = self.config.client()?;
            client
                .alpn_protocols
                .extend(self.protocol.map(<[u8]>::to_vec));
            Ok(Arc::new(client))
        });
        made.clone()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

// === helpers ===

fn certificates(field: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(ConfigError::new(field, "holds no certificate in PEM"))
        }
        Ok(certificates) => Ok(certificates),
        Err(_) => Err(ConfigError::new(field, "is malformed PEM")),
    }
}

/// Certificates of the system that rustls does not understand are of no use to it, and no harm.
fn system_roots() -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        true => Err(ConfigError::new(
            "tls",
            "the system has no certificates to trust; give some with ca_pem",
        )),
        false => Ok(roots),
    }
}

/// Takes every certificate, but still wants proof that the server has the key to it.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn what_is_given_is_checked_at_once_and_a_key_never_repeated() {
        let (cert, key) = pair("localhost");
        let (_, other) = pair("localhost");
        let of = |cert: &str, key: &str| TlsConfig::new().client_identity_pem(cert, key);
        let torn = cert.replace("-----END CERTIFICATE-----", "");
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (refused, field) in [
            (TlsConfig::new().ca_pem(""), "ca_pem"),
            (TlsConfig::new().ca_pem(&key), "ca_pem"),
            (TlsConfig::new().ca_pem(&torn), "ca_pem"),
            (TlsConfig::new().ca_pem(garbage), "ca_pem"),
            (of("", &key), "client_cert_pem"),
            (of(garbage, &key), "client_cert_pem"),
            (of(&cert, ""), "client_key_pem"),
            (of(&cert, &cert), "client_key_pem"),
            (of(&cert, &other), "client_key_pem"),
            (TlsConfig::new().server_name(""), "server_name"),
            (TlsConfig::new().server_name("no host"), "server_name"),
        ] {
            let error = refused.unwrap_err();
            assert_eq!(error.field(), field, "{error}");
            let secret = key.lines().nth(1).unwrap();
            assert!(!error.to_string().contains(secret), "{error}");
        }
        let good = of(&cert, &key).unwrap().ca_pem(&cert).unwrap();
        let secret = key.lines().nth(1).unwrap();
        assert!(!format!("{good:?}").contains(secret), "{good:?}");
        good.client().unwrap();
    }

    #[test]
    fn one_endpoint_has_one_client_whatever_is_cloned() {
        let (cert, _) = pair("localhost");
        let config = TlsConfig::new().ca_pem(cert).unwrap();
        let tls = Tls::new("localhost", config).unwrap();
        let before = tls.clone();
        assert!(Arc::ptr_eq(
            &tls.client().unwrap(),
            &before.client().unwrap()
        ));
    }
}
