//! Certificates and keys in PEM form, read in one way for the daemon's own ports, for PostgreSQL and for HTTPS servers.
//!
//! A text without a part of the wanted kind is an error here, so that no caller can take an empty list of CAs for one that
//! trusts none. How an error is told depends on the option that named the file, so each caller words its own.

use std::path::Path;

use rustls::{
    Error, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{
        PrivateKeyDer,
        pem::{self, PemObject},
    },
};

/// All parts of a kind in a file, one at least.
///
/// # Errors
/// The file cannot be read, is not in PEM form, or has no such part.
pub fn of_file<T: PemObject>(path: &Path) -> Result<Vec<T>, pem::Error> {
    one_at_least(T::pem_file_iter(path)?)
}

/// All parts of a kind in a text, one at least.
///
/// # Errors
/// The text is not in PEM form, or has no such part.
pub fn of_text<T: PemObject>(text: &[u8]) -> Result<Vec<T>, pem::Error> {
    one_at_least(T::pem_slice_iter(text))
}

fn one_at_least<T>(parts: impl Iterator<Item = Result<T, pem::Error>>) -> Result<Vec<T>, pem::Error> {
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    if parts.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(parts) }
}

/// Checks that a key is of a kind that handshakes can use. Checked of the key alone, its error names the file of the key;
/// checked with the certificate, it would name both.
///
/// # Errors
/// It is not.
pub fn check_key(key: &PrivateKeyDer<'static>, provider: &CryptoProvider) -> Result<(), Error> {
    provider.key_provider.load_private_key(key.clone_key()).map(drop)
}

/// The CAs that the operating system trusts.
///
/// # Errors
/// There is none; with the first cause, if one is known.
pub fn system_roots() -> Result<RootCertStore, Option<String>> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    match roots.add_parsable_certificates(found.certs) {
        (0, _) => Err(found.errors.first().map(ToString::to_string)),
        _ => Ok(roots),
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;

    use super::*;

    #[test]
    fn text_without_the_wanted_part_is_an_error() {
        for text in ["", "words", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
            let read = of_text::<CertificateDer<'static>>(text.as_bytes());
            assert!(matches!(read, Err(pem::Error::NoItemsFound)), "{text}: {read:?}");
        }
        let two = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".repeat(2);
        assert_eq!(of_text::<CertificateDer<'static>>(two.as_bytes()).unwrap().len(), 2);
        assert!(of_text::<CertificateDer<'static>>(&two.as_bytes()[..95]).is_err(), "the second part has no end");
    }

    #[test]
    fn missing_file_is_an_error_of_the_system() {
        let read = of_file::<CertificateDer<'static>>(Path::new("/nowhere/ca.pem"));
        assert!(matches!(read, Err(pem::Error::Io(_))), "{read:?}");
    }
}
