//! From when until when a certificate is valid, and a list of revoked ones.

use std::time::Duration;

use chrono::{DateTime, Utc};
use x509_cert::{Certificate, crl::CertificateList, der::Decode as _, time::Time};

fn at(time: Time) -> Option<DateTime<Utc>> {
    let seconds = i64::try_from(time.to_unix_duration().as_secs()).ok()?;
    DateTime::from_timestamp(seconds, 0)
}

/// When a list of revoked certificates in DER form is to be replaced; `None`: it does not tell.
pub(super) fn next_update(list: &[u8]) -> Option<DateTime<Utc>> {
    at(CertificateList::from_der(list).ok()?.tbs_cert_list.next_update?)
}

/// The validity of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its begin.
    pub not_before: DateTime<Utc>,
    /// Its end.
    pub not_after: DateTime<Utc>,
}

impl Validity {
    /// That of a certificate in DER form; the reason if it cannot be read.
    pub(super) fn of(certificate: &[u8]) -> Result<Self, String> {
        let certificate = Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let validity = certificate.tbs_certificate.validity;
        let both = at(validity.not_before).zip(at(validity.not_after));
        let (not_before, not_after) = both.ok_or("its validity is out of range")?;
        Ok(Self { not_before, not_after })
    }

    /// How long it is still valid; zero if it is not.
    #[must_use]
    pub fn left(&self, now: DateTime<Utc>) -> Duration {
        (self.not_after - now).to_std().unwrap_or_default()
    }

    /// How long it is valid in all.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        (self.not_after - self.not_before).to_std().unwrap_or_default()
    }
}
