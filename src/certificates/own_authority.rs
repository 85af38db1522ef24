//! A server that shows a certificate of an authority as its own, as `openssl req -x509` makes it.
//!
//! Such a certificate says that it may sign others, so webpki refuses it as a server's (`CaUsedAsEndEntity`). The user who names
//! exactly this certificate as an authority trusts its key, so it is accepted where its name and dates allow it, as OpenSSL does.

use super::der::Certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use std::sync::Arc;

/// Verifies a server's certificate by webpki or, if it is one of the authorities itself, by its name and dates.
#[derive(Debug)]
pub(super) struct OwnAuthority {
    pub(super) webpki: Arc<WebPkiServerVerifier>,
    /// The certificates that the user named.
    pub(super) named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for OwnAuthority {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.webpki.verify_server_cert(shown, intermediates, name, ocsp, now);
        match verified {
            Err(why) if self.named.contains(shown) => {
                check(shown, name, now).ok_or(why)??;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Checks the name and the dates of a trusted certificate; `None` if it cannot be read.
fn check(shown: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Option<Result<(), Error>> {
    let certificate = Certificate::read(shown)?;
    if now.as_secs() < certificate.not_before {
        return Some(Err(CertificateError::NotValidYet.into()));
    }
    if now.as_secs() > certificate.not_after {
        return Some(Err(CertificateError::Expired.into()));
    }
    if certificate.has_other_names {
        let parsed = ParsedCertificate::try_from(shown);
        return Some(parsed.and_then(|parsed| verify_server_name(&parsed, name)));
    }
    // Without subjectAltName the common name counts, as it does for curl.
    let is_named = certificate.common_name.is_some_and(|common| common.eq_ignore_ascii_case(&name.to_str()));
    Some(if is_named { Ok(()) } else { Err(CertificateError::NotValidForName.into()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};
    use rustls::RootCertStore;
    use rustls::crypto::ring::default_provider;
    use std::time::Duration;

    /// In 2026.
    const NOW: u64 = 1_780_000_000;

    fn certificate(names: &[&str], common: &str) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "ours");
        params.distinguished_name.push(DnType::CommonName, common);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) = (date_time_ymd(2025, 3, 1), date_time_ymd(2055, 2, 28));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn verify(
        trusted: &CertificateDer<'static>,
        shown: &CertificateDer<'static>,
        name: &str,
        at: u64,
    ) -> Result<(), Error> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let provider = Arc::new(default_provider());
        let webpki = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let verifier = OwnAuthority { webpki, named: vec![trusted.clone()] };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        verifier.verify_server_cert(shown, &[], &name, &[], at).map(|_| ())
    }

    #[test]
    fn authority_is_accepted_as_its_own_server() {
        let ours = certificate(&["localhost", "127.0.0.1"], "other.example");
        for name in ["localhost", "127.0.0.1"] {
            assert_eq!(verify(&ours, &ours, name, NOW), Ok(()), "{name}");
        }
        for name in ["other.example", "127.0.0.2"] {
            let why = verify(&ours, &ours, name, NOW).unwrap_err();
            assert!(why.to_string().contains("not valid for name"), "{name}: {why}");
        }
        let bare = certificate(&[], "Redis.internal");
        assert_eq!(verify(&bare, &bare, "redis.internal", NOW), Ok(()));
        assert!(verify(&bare, &bare, "internal", NOW).is_err());
        let address = certificate(&[], "127.0.0.1");
        assert_eq!(verify(&address, &address, "127.0.0.1", NOW), Ok(()));
    }

    #[test]
    fn other_certificate_and_other_date_are_refused() {
        let (ours, theirs) = (certificate(&["localhost"], "x"), certificate(&["localhost"], "x"));
        assert!(verify(&ours, &theirs, "localhost", NOW).is_err());
        let early = verify(&ours, &ours, "localhost", 1_700_000_000).unwrap_err();
        assert_eq!(early, CertificateError::NotValidYet.into());
        let late = verify(&ours, &ours, "localhost", 2_700_000_000).unwrap_err();
        assert_eq!(late, CertificateError::Expired.into());
    }
}
