//! What `rediss://` trusts and shows: the public authorities, or the ones of a file; and, if the server asks for it, a certificate
//! of one's own. The files are read once, at the start.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, TlsCertificates};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::options::OptionsError;

/// The files; all of them are PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that sign the servers' certificates (`REDIS_TLS_CA_FILE`), in place of the public ones.
    pub ca: Option<PathBuf>,
    /// The node's own certificate, followed by those between it and its authority (`REDIS_TLS_CERT_FILE`).
    pub certificate: Option<PathBuf>,
    /// Its key (`REDIS_TLS_KEY_FILE`).
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// Reads them.
    pub(super) fn read(&self) -> Result<Option<TlsCertificates>, OptionsError> {
        if *self == Self::default() {
            return Ok(None);
        }
        let client_tls = match (&self.certificate, &self.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(ClientTlsConfig {
                client_cert: pem("REDIS_TLS_CERT_FILE", certificate, "CERTIFICATE")?,
                client_key: pem("REDIS_TLS_KEY_FILE", key, "PRIVATE KEY")?,
            }),
            (Some(_), None) => return Err(alone("REDIS_TLS_KEY_FILE", "the key of REDIS_TLS_CERT_FILE")),
            (None, Some(_)) => return Err(alone("REDIS_TLS_CERT_FILE", "the certificate of REDIS_TLS_KEY_FILE")),
        };
        let root_cert = self.ca.as_ref().map(|ca| pem("REDIS_TLS_CA_FILE", ca, "CERTIFICATE")).transpose()?;
        Ok(Some(TlsCertificates { client_tls, root_cert }))
    }

    /// Reads them, for the connections that are not the library's.
    pub(super) fn client_config(&self) -> Result<Arc<ClientConfig>, OptionsError> {
        config_of(self.read()?.as_ref())
    }
}

/// How to connect, with the certificates.
pub(super) fn with(
    info: ConnectionInfo,
    certificates: Option<&TlsCertificates>,
) -> Result<ConnectionInfo, OptionsError> {
    let Some(certificates) = certificates else { return Ok(info) };
    let what = if certificates.root_cert.is_some() { "REDIS_TLS_CA_FILE" } else { "REDIS_TLS_CERT_FILE" };
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        let expected = "rediss:// in REDIS_URL, for which it is".to_owned();
        return Err(OptionsError { what, expected, got: format!("redis://{}", info.addr()) });
    }
    match Client::build_with_tls(info, certificates.clone()) {
        Ok(client) => Ok(client.get_connection_info().clone()),
        Err(error) => Err(OptionsError {
            what,
            expected: "PEM files of certificates and a key".to_owned(),
            got: error.to_string(),
        }),
    }
}

/// The same certificates for the connection that is our own.
fn config_of(certificates: Option<&TlsCertificates>) -> Result<Arc<ClientConfig>, OptionsError> {
    let unusable = |what: &'static str, error: &dyn std::fmt::Display| OptionsError {
        what,
        expected: "PEM files of certificates and a key".to_owned(),
        got: error.to_string(),
    };
    let authorities = |error: &dyn std::fmt::Display| unusable("REDIS_TLS_CA_FILE", error);
    let mut roots = RootCertStore::empty();
    match certificates.and_then(|certificates| certificates.root_cert.as_ref()) {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| authorities(&error))?;
                roots.add(certificate).map_err(|error| authorities(&error))?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| authorities(&error))?
        .with_root_certificates(roots);
    let own = |error: &dyn std::fmt::Display| unusable("REDIS_TLS_CERT_FILE", error);
    let config = match certificates.and_then(|certificates| certificates.client_tls.as_ref()) {
        Some(ClientTlsConfig { client_cert, client_key }) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(client_cert).collect();
            let key = PrivateKeyDer::from_pem_slice(client_key).map_err(|error| own(&error))?;
            builder.with_client_auth_cert(chain.map_err(|error| own(&error))?, key).map_err(|error| own(&error))?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn pem(what: &'static str, path: &Path, label: &str) -> Result<Vec<u8>, OptionsError> {
    let expected = format!("a PEM file with a {label}");
    let content = std::fs::read(path).map_err(|error| OptionsError {
        what,
        expected: expected.clone(),
        got: format!("{}: {error}", path.display()),
    })?;
    // A file without any would trust nobody, and say so only at the first handshake.
    if !String::from_utf8_lossy(&content).contains(&format!("{label}-----")) {
        return Err(OptionsError { what, expected, got: format!("{}, which has none", path.display()) });
    }
    Ok(content)
}

fn alone(what: &'static str, expected: &str) -> OptionsError {
    OptionsError { what, expected: expected.to_owned(), got: "nothing".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_none_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (absent, empty) = (directory.path().join("absent.pem"), directory.path().join("empty.pem"));
        std::fs::write(&empty, "hello").unwrap();
        for (files, what, part) in [
            (TlsFiles { ca: Some(absent), ..TlsFiles::default() }, "REDIS_TLS_CA_FILE", "absent.pem"),
            (TlsFiles { ca: Some(empty.clone()), ..TlsFiles::default() }, "REDIS_TLS_CA_FILE", "which has none"),
            (TlsFiles { certificate: Some(empty.clone()), ..TlsFiles::default() }, "REDIS_TLS_KEY_FILE", "nothing"),
            (TlsFiles { key: Some(empty), ..TlsFiles::default() }, "REDIS_TLS_CERT_FILE", "nothing"),
        ] {
            let error = files.read().unwrap_err();
            assert_eq!(error.what, what);
            assert!(error.got.contains(part), "{error}");
        }
        assert!(TlsFiles::default().read().unwrap().is_none());
    }
}
