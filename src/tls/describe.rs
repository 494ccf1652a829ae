//! What stands in a certificate: for people, and of a client for [`crate::access`].

use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use x509_cert::{
    Certificate,
    attr::AttributeTypeAndValue,
    der::{Decode as _, asn1, oid::ObjectIdentifier},
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use super::{pem, validity::Validity};
use crate::access;

/// The type of a common name.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// The parts of a certificate that decide who accepts it.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its name.
    pub subject: String,
    /// The CA that signed it.
    pub issuer: String,
    /// The DNS names, IP addresses and URIs that it is for.
    pub names: Vec<String>,
    /// From when until when.
    pub validity: Validity,
}

/// Reads the first certificate of a PEM text.
///
/// # Errors
/// Why it cannot be read.
pub fn describe(pem: &[u8]) -> Result<Described, String> {
    let der = CertificateDer::from_pem_slice(pem).map_err(|_| "no part -----BEGIN CERTIFICATE-----".to_owned())?;
    let certificate = Certificate::from_der(&der).map_err(|error| error.to_string())?.tbs_certificate;
    let names = certificate.get::<SubjectAltName>().ok().flatten();
    let names = names.into_iter().flat_map(|(_, names)| names.0).filter_map(|name| text(&name)).collect();
    Ok(Described {
        subject: certificate.subject.to_string(),
        issuer: certificate.issuer.to_string(),
        names,
        validity: Validity::of(&der)?,
    })
}

/// Whether a private key is that of the first certificate, both as PEM texts.
///
/// # Errors
/// Why one of them cannot be read.
pub fn is_pair(certificate: &[u8], key: &[u8]) -> Result<bool, String> {
    let chain = pem::of_text(certificate).map_err(|_| "no part -----BEGIN CERTIFICATE-----".to_owned())?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "no part -----BEGIN PRIVATE KEY-----".to_owned())?;
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Ok(_) => Ok(true),
        Err(rustls::Error::InconsistentKeys(_)) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

/// What a client certificate says of its holder. Its chain and its key have been checked by the handshake.
pub(super) fn holder(der: &CertificateDer<'_>) -> access::Certificate {
    let unreadable = |why: &str| access::Certificate::unreadable(why.to_owned(), chrono::DateTime::UNIX_EPOCH);
    let Ok(validity) = Validity::of(der) else { return unreadable("its validity cannot be read") };
    let Ok(certificate) = Certificate::from_der(der) else { return unreadable("it cannot be read") };
    let certificate = certificate.tbs_certificate;
    let Ok(names) = certificate.get::<SubjectAltName>() else {
        return unreadable("its alternative names cannot be read");
    };
    let names = names.map(|(_, names)| names.0).unwrap_or_default();
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str()),
            _ => None,
        })
        .collect();
    let attributes = certificate.subject.0.iter().flat_map(|name| name.0.iter());
    let common: Vec<String> = attributes.filter(|one| one.oid == COMMON_NAME).map(value).collect();
    let common: Vec<&str> = common.iter().map(String::as_str).collect();
    access::Certificate::new(&uris, &common, validity.not_after)
}

/// An attribute of a name as text; empty if it is none, which no identity is.
fn value(attribute: &AttributeTypeAndValue) -> String {
    let utf8 = attribute.value.decode_as::<asn1::Utf8StringRef<'_>>().map(|text| text.to_string());
    let printable = || attribute.value.decode_as::<asn1::PrintableStringRef<'_>>().map(|text| text.to_string());
    utf8.or_else(|_| printable()).unwrap_or_default()
}

fn text(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
        GeneralName::IpAddress(bytes) => {
            let bytes = bytes.as_bytes();
            let v4 = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from);
            v4.or_else(|_| v6()).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}
