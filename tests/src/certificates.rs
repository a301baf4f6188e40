//! An authority that signs certificates for servers on 127.0.0.1 and for nodes, all in files of a directory that is gone afterwards.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tempfile::TempDir;

/// See the module.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    /// One that nobody else trusts.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are right names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of a test");
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it signs itself");
        let directory = TempDir::new().expect("a temporary directory can be made");
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).expect("a file can be written");
        Self { issuer, directory }
    }

    /// Its own certificate.
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A certificate for 127.0.0.1, of a server or a client, and its key.
    pub fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address is a right name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("it can be signed");
        (self.write(name, "pem", &certificate.pem()), self.write(name, "key", &key.serialize_pem()))
    }

    fn write(&self, name: &str, extension: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(Path::new(name).with_extension(extension));
        std::fs::write(&path, content).expect("a file can be written");
        path
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
