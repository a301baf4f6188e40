//! What `rediss://` trusts and shows: the public authorities, or the ones of a file; and, if the server asks for it, a certificate
//! of one's own. The files are read once, at the start.

use std::path::{Path, PathBuf};

use redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, TlsCertificates};

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
