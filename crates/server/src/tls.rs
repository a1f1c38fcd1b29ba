//! The certificate and its key.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring},
};

use crate::error::FileError;

/// A certificate chain and its key, which can be read again. Clones share them.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.0.certificate).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads PEM files: the server's certificate first, then those that lead to its root; and the key.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, FileError> {
        let config = RwLock::new(Arc::new(config(certificate, key)?));
        Ok(Self(Arc::new(Inner { certificate: certificate.to_path_buf(), key: key.to_path_buf(), config })))
    }

    /// Reads both files again, for connections to come. Where that fails, all stays as it was.
    pub fn reload(&self) -> Result<(), FileError> {
        let fresh = Arc::new(config(&self.0.certificate, &self.0.key)?);
        *self.0.config.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// What a new connection is encrypted with.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.0.config.read().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

fn config(certificate: &Path, key: &Path) -> Result<ServerConfig, FileError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| FileError::new(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(FileError::new(certificate, "expected a certificate in PEM, found none".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| FileError::new(key, format!("expected a private key in PEM: {error}")))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| FileError::new(certificate, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| FileError::new(certificate, format!("does not go with {}: {error}", key.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
