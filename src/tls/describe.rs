//! What stands in a certificate, for people.

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_cert::{
    Certificate,
    der::Decode as _,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use super::validity::Validity;

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
