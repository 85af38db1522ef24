//! Certificates and private keys in PEM files, and the authorities to trust.

mod der;
mod own_authority;

#[cfg(feature = "daemon")]
pub use der::{Values as DerValues, header as der_header};
use own_authority::OwnAuthority;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
#[cfg(feature = "daemon")]
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use std::path::Path;
use std::sync::Arc;

/// Why certificates cannot be used. The text names the flag, the file and the cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

/// Verifies servers by the authorities in the file `ca`, which the user named with `flag`, or else by the system's.
///
/// # Errors
/// When the file cannot be read, or when there is no authority at all.
pub fn verifier(ca: Option<&Path>, flag: &str) -> Result<Arc<dyn ServerCertVerifier>, Unusable> {
    let mut roots = RootCertStore::empty();
    let named = ca.map(|ca| certificates(ca, flag)).transpose()?;
    let authorities = named.clone().unwrap_or_else(|| rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(authorities);
    if roots.is_empty() {
        return Err(Unusable(format!(
            "there is no certificate authority to trust; name one with {flag} FILE"
        )));
    }
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
    let webpki = webpki.build().map_err(|why| Unusable(format!("the authorities cannot be used: {why}")))?;
    Ok(match named {
        Some(named) => Arc::new(OwnAuthority { webpki, named }),
        None => webpki,
    })
}

/// All certificates of the file `path`, which the user named with `flag`.
///
/// # Errors
/// When the file cannot be read or has no certificate.
pub fn certificates(path: &Path, flag: &str) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|why| Unusable(format!("{flag} {} cannot be read: {why}", path.display())))?;
    if all.is_empty() {
        return Err(Unusable(format!("{flag} {} has no certificate in PEM", path.display())));
    }
    Ok(all)
}

/// The private key in the file `path`, which the user named with `flag`.
///
/// # Errors
/// When the file cannot be read or has no private key.
#[cfg(feature = "daemon")]
pub fn private_key(path: &Path, flag: &str) -> Result<PrivateKeyDer<'static>, Unusable> {
    PrivateKeyDer::from_pem_file(path).map_err(|why| {
        Unusable(format!("{flag} {} has no readable private key in PEM: {why}", path.display()))
    })
}
