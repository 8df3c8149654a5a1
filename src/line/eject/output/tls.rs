//! TLS towards brokers and receivers: rustls, TLS 1.2 and 1.3; whom we believe, and as whom we come.

use std::path::{Path, PathBuf};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde::Deserialize;

/// Whom we believe, and as whom we come. The files are read at start.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file of the authorities that may vouch for the other side; absent: those that this machine trusts.
    pub ca: Option<PathBuf>,
    /// PEM file of our certificate, where the other side asks for one.
    pub certificate: Option<PathBuf>,
    /// PEM file of its private key.
    pub key: Option<PathBuf>,
}

impl Tls {
    /// Refuses half an identity.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.certificate.is_some() != self.key.is_some() {
            return Err("tls: certificate and key go together".into());
        }
        Ok(())
    }

    /// Reads the files.
    pub(super) fn config(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|e| format!("tls: {}: {e}", path.display()))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("tls: {e}"))?
            .with_root_certificates(roots);
        let (Some(certificate), Some(key)) = (&self.certificate, &self.key) else {
            return Ok(config.with_no_client_auth());
        };
        let refuse = |why: String| format!("tls: {} and {}: {why}", certificate.display(), key.display());
        let private = PrivateKeyDer::from_pem_file(key).map_err(|e| refuse(e.to_string()))?;
        config.with_client_auth_cert(certificates(certificate)?, private).map_err(|e| refuse(e.to_string()))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let refuse = |why: &str| format!("tls: no PEM certificate can be read from {}: {why}", path.display());
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|e| refuse(&e.to_string()))?;
    if read.is_empty() { Err(refuse("there is none in it")) } else { Ok(read) }
}
