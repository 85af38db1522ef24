//! A certificate authority for one test.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Authority {
        let folder = tempfile::tempdir().expect("a folder");
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        // With the name of its children, OpenSSL would regard them as self-signed.
        params.distinguished_name.push(DnType::CommonName, "an authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        std::fs::write(folder.path().join("ca.pem"), &pem).expect("a file");
        Authority { folder, issuer: Issuer::new(params, key), pem }
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Writes NAME.pem and NAME.key, a certificate for 127.0.0.1, and returns both paths.
    pub fn issue(&self, name: &str) -> [String; 2] {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("parameters");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let paths = [self.path(&format!("{name}.pem")), self.path(&format!("{name}.key"))];
        std::fs::write(&paths[0], cert.pem()).expect("a file");
        std::fs::write(&paths[1], key.serialize_pem()).expect("a file");
        paths
    }

    /// Writes NAME.pem and NAME.key, an authority that is a server's own certificate for 127.0.0.1, as `openssl req -x509` makes
    /// it, and returns both paths. Without `alternative` the address is only its common name.
    pub fn issue_self_signed(&self, name: &str, alternative: bool) -> [String; 2] {
        let key = KeyPair::generate().expect("a key");
        let names = if alternative { vec!["127.0.0.1".into()] } else { vec![] };
        let mut params = CertificateParams::new(names).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, "127.0.0.1");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let paths = [self.path(&format!("{name}.pem")), self.path(&format!("{name}.key"))];
        std::fs::write(&paths[0], params.self_signed(&key).expect("a certificate").pem()).expect("a file");
        std::fs::write(&paths[1], key.serialize_pem()).expect("a file");
        paths
    }

    /// Opens a TLS connection that trusts only this authority.
    pub async fn connect(&self, port: u16) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("a certificate"))
            .expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}
