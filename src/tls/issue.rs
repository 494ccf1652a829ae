//! Makes certificates: a CA of one's own, and what it signs for daemons and clients.
//!
//! Keys are ECDSA P-256. A CA is valid for five years and can sign no other CA; a certificate for 90 days unless the caller
//! says otherwise, from five minutes ago, so that a clock that is a little late accepts it at once. Values in, PEM texts out:
//! files are the caller's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use thiserror::Error;
use x509_cert::{
    Certificate,
    attr::AttributeTypeAndValue,
    der::{Decode as _, Encode as _, asn1},
};

/// How long a CA is valid.
const CA_LIFETIME: Duration = Duration::from_secs(5 * 365 * 24 * 60 * 60);
/// How long before now a certificate begins.
const BACKDATED: Duration = Duration::from_secs(5 * 60);

/// A certificate and its key, as PEM texts.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key: a secret.
    pub key: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate).field("key", &"***").finish()
    }
}

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A daemon, under these DNS names and IP addresses.
    Server(Vec<String>),
    /// A client: its name, and a SPIFFE URI if it has one.
    Client {
        /// The common name.
        name: String,
        /// The identity as a URI.
        spiffe: Option<String>,
    },
}

/// Why no certificate was made.
#[derive(Debug, Error)]
pub enum IssueError {
    /// A name cannot stand in a certificate.
    #[error("{0:?} cannot stand in a certificate; give DNS names, IP addresses, or a URI in ASCII")]
    Name(String),
    /// The CA cannot be used.
    #[error("the CA cannot sign: {0}")]
    Authority(String),
    /// The library refuses.
    #[error("the certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// A CA that can sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its name, as it must stand in what it signs.
    subject: Vec<u8>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a CA of this name.
    ///
    /// # Errors
    /// The name cannot stand in a certificate.
    pub fn create(name: &str, now: DateTime<Utc>) -> Result<Issued, IssueError> {
        let key = KeyPair::generate()?;
        let mut params = params(Vec::new(), name, now, CA_LIFETIME)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Reads a CA from PEM texts.
    ///
    /// # Errors
    /// [`IssueError::Authority`]: they are no CA and its key.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, IssueError> {
        let refuse = |why: &str| IssueError::Authority(why.to_owned());
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| refuse("its file holds no certificate in PEM form; give the one of the CA"))?;
        let parsed = Certificate::from_der(&der).map_err(|_| refuse("its certificate cannot be read; replace it"))?;
        let key = KeyPair::from_pem(key)
            .map_err(|_| refuse("its key is not in PKCS #8 form; convert it with openssl pkcs8 -topk8 -nocrypt"))?;
        let of_certificate = &parsed.tbs_certificate.subject_public_key_info.subject_public_key;
        if of_certificate.raw_bytes() != key.der_bytes() {
            return Err(refuse("the key is not that of its certificate; give the two that belong together"));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for attribute in parsed.tbs_certificate.subject.0.iter().flat_map(|name| name.0.iter()) {
            let (kind, value) =
                named(attribute).ok_or_else(|| refuse("its name has a part that is not supported; use another CA"))?;
            params.distinguished_name.push(kind, value);
        }
        let subject = parsed.tbs_certificate.subject.to_der().map_err(|_| refuse("its name cannot be read"))?;
        Ok(Self { issuer: Issuer::new(params, key), subject })
    }

    /// Signs a certificate with a key of its own.
    ///
    /// # Errors
    /// [`IssueError`]: a name cannot stand in a certificate, or in the way in which this CA is named.
    pub fn issue(&self, subject: &Subject, lifetime: Duration, now: DateTime<Utc>) -> Result<Issued, IssueError> {
        let (mut params, purpose) = match subject {
            Subject::Server(names) => {
                let first = names.first().map_or("musterd", String::as_str);
                (params(names.clone(), first, now, lifetime)?, ExtendedKeyUsagePurpose::ServerAuth)
            }
            Subject::Client { name, spiffe } => {
                let mut params = params(Vec::new(), name, now, lifetime)?;
                if let Some(uri) = spiffe {
                    let uri = uri.as_str().try_into().map_err(|_| IssueError::Name(uri.clone()))?;
                    params.subject_alt_names.push(SanType::URI(uri));
                }
                (params, ExtendedKeyUsagePurpose::ClientAuth)
            }
        };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let signed = Certificate::from_der(certificate.der()).ok();
        let issuer = signed.and_then(|signed| signed.tbs_certificate.issuer.to_der().ok());
        if issuer.as_ref() != Some(&self.subject) {
            let why = "its name cannot be written as it stands there; sign with the tool that made the CA";
            return Err(IssueError::Authority(why.to_owned()));
        }
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn params(
    names: Vec<String>,
    common_name: &str,
    now: DateTime<Utc>,
    lifetime: Duration,
) -> Result<CertificateParams, IssueError> {
    let listed = names.join(", ");
    let mut params = CertificateParams::new(names).map_err(|_| IssueError::Name(listed))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = Duration::from_secs(u64::try_from(now.timestamp()).unwrap_or_default());
    params.not_before = date_time_ymd(1970, 1, 1) + now.saturating_sub(BACKDATED);
    params.not_after = date_time_ymd(1970, 1, 1) + (now + lifetime);
    Ok(params)
}

/// A part of a name, with its encoding.
fn named(attribute: &AttributeTypeAndValue) -> Option<(DnType, DnValue)> {
    let arcs: Vec<u64> = attribute.oid.arcs().map(u64::from).collect();
    let utf8 = attribute.value.decode_as::<asn1::Utf8StringRef<'_>>().map(|text| DnValue::Utf8String(text.to_string()));
    let value = utf8.ok().or_else(|| {
        let text = attribute.value.decode_as::<asn1::PrintableStringRef<'_>>().ok()?;
        Some(DnValue::PrintableString(text.as_str().try_into().ok()?))
    })?;
    Some((DnType::from_oid(&arcs), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Validity;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_900_000_000, 0).unwrap()
    }

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn issued_certificate_is_valid_from_before_now_for_its_lifetime() {
        let ca = Authority::create("a CA", now()).unwrap();
        let authority = Authority::from_pem(&ca.certificate, &ca.key).unwrap();
        let subject = Subject::Server(vec!["db.example".to_owned(), "10.0.0.1".to_owned()]);
        let issued = authority.issue(&subject, DAY, now()).unwrap();
        let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        let validity = Validity::of(&der).unwrap();
        assert_eq!(validity.not_before, now() - BACKDATED);
        assert_eq!(validity.not_after, now() + DAY);
        assert!(!format!("{issued:?}").contains("PRIVATE KEY"));
    }

    #[test]
    fn key_of_another_ca_and_names_that_cannot_be_written_are_refused() {
        let (one, other) = (Authority::create("a", now()).unwrap(), Authority::create("b", now()).unwrap());
        let error = Authority::from_pem(&one.certificate, &other.key).unwrap_err().to_string();
        assert!(error.contains("not that of its certificate"), "{error}");
        assert!(Authority::from_pem("nothing", &one.key).is_err());
        let authority = Authority::from_pem(&one.certificate, &one.key).unwrap();
        let subject = Subject::Client { name: "a".to_owned(), spiffe: Some("spiffe://td/größe".to_owned()) };
        assert!(matches!(authority.issue(&subject, DAY, now()), Err(IssueError::Name(_))));
    }
}
