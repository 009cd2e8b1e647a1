//! Certificates on both sides of a connection.
//!
//! One certificate authority signs every node's certificate. Each side checks
//! the other's; a peer without one gets an alert and nothing else. A
//! certificate must be valid for the host that was dialled, or for one name
//! that all nodes share. Sessions are never resumed: after a reload everybody
//! proves itself anew.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::TcpStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// The files, all in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// This node's certificate, and those between it and the authority's.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority's certificates.
    pub authority: PathBuf,
    /// The name that every node's certificate bears. Without it the host that
    /// is dialled must be in the certificate.
    pub name: Option<String>,
}

/// Why certificates cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// A file that cannot be read, or holds something else.
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// They do not fit together.
    Unfit(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::File { path, why } => write!(out, "cannot use {}: {why}", path.display()),
            TlsError::Unfit(why) => write!(out, "certificate and key cannot be used: {why}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// Certificates in use; they can be replaced while connections live.
pub struct Tls {
    files: TlsFiles,
    sides: RwLock<Arc<Sides>>,
}

struct Sides {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl Tls {
    /// Reads the files.
    pub fn load(files: TlsFiles) -> Result<Tls, TlsError> {
        let sides = RwLock::new(Arc::new(read(&files)?));
        Ok(Tls { files, sides })
    }

    /// Reads the files again. If they are bad, the old ones stay in use.
    /// Connections that exist stay as they are.
    pub fn reload(&self) -> Result<(), TlsError> {
        let sides = Arc::new(read(&self.files)?);
        *self.sides.write().unwrap_or_else(PoisonError::into_inner) = sides;
        Ok(())
    }

    fn sides(&self) -> Arc<Sides> {
        self.sides.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Proves itself to a listener, and lets it do so.
    pub(crate) async fn connect(
        &self,
        address: &str,
        stream: TcpStream,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = self.files.name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        self.sides().connector.connect(name, stream).await
    }

    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<server::TlsStream<TcpStream>> {
        self.sides().acceptor.accept(stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(out)
    }
}

fn read(files: &TlsFiles) -> Result<Sides, TlsError> {
    let unfit = |error: &dyn fmt::Display| TlsError::Unfit(error.to_string());
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| TlsError::File { path: files.key.clone(), why: error.to_string() })?;
    let mut roots = RootCertStore::empty();
    for root in certificates(&files.authority)? {
        roots.add(root).map_err(|error| TlsError::File {
            path: files.authority.clone(),
            why: error.to_string(),
        })?;
    }
    let roots = Arc::new(roots);
    let provider = Arc::new(ring::default_provider());

    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| unfit(&error))?;
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unfit(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(|error| unfit(&error))?;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;

    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unfit(&error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| unfit(&error))?;
    client.resumption = Resumption::disabled();
    Ok(Sides {
        connector: TlsConnector::from(Arc::new(client)),
        acceptor: TlsAcceptor::from(Arc::new(server)),
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |why: String| TlsError::File { path: path.to_owned(), why };
    let read = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(error.to_string()))?;
    if read.is_empty() { Err(wrong("it holds no certificate".into())) } else { Ok(read) }
}
