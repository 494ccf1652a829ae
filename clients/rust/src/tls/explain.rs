//! Why a handshake failed, for the operator of the client: the cause, and what to change.

use std::{io, path::PathBuf, time::Duration};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, pki_types::UnixTime};

use super::failure::TlsFailure;

/// The other side, and what this side brought along.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) host: String,
    pub(super) ca: Option<PathBuf>,
    pub(super) identity: Option<PathBuf>,
}

/// In one line.
pub(super) fn explain(error: &io::Error, peer: &Peer) -> TlsFailure {
    let host = &peer.host;
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    TlsFailure(match cause {
        None => format!("{host} broke off the TLS handshake ({error}); does it speak TLS at this port?"),
        Some(Error::InvalidCertificate(cause)) => certificate(cause, peer),
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            format!("{host} does not speak TLS at this port; use an http:// address, or turn TLS on there (--tls-cert)")
        }
        Some(Error::AlertReceived(alert)) if is_about_identity(*alert) => match &peer.identity {
            Some(file) => format!(
                "{host} refuses the certificate {} ({alert:?}); give one that is valid now and signed by its client CA",
                file.display()
            ),
            None => format!(
                "{host} asks for a client certificate ({alert:?}); give one (--cert and --cert-key, MUSTERD_CERT and \
                 MUSTERD_CERT_KEY)"
            ),
        },
        Some(Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            format!(
                "{host} speaks another protocol at this port; gRPC is at port 7717 and HTTP at port 7718 by default"
            )
        }
        Some(other) => format!("the TLS handshake with {host} failed: {other}; the log of the daemon may tell more"),
    })
}

fn is_about_identity(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::NoCertificate
    )
}

fn certificate(cause: &CertificateError, peer: &Peer) -> String {
    let host = &peer.host;
    match cause {
        CertificateError::UnknownIssuer => {
            let trusted = match &peer.ca {
                Some(path) => format!("no CA in {}", path.display()),
                None => "no CA that this system trusts".to_owned(),
            };
            format!("{trusted} has signed the certificate of {host}; give the CA that has (--ca, MUSTERD_CA)")
        }
        CertificateError::Expired => format!("the certificate of {host} has expired; renew it there"),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("the certificate of {host} expired {} ago; renew it there", between(*not_after, *time))
        }
        CertificateError::NotValidYet => {
            format!("the certificate of {host} is not valid yet; check the clocks of both machines")
        }
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the certificate of {host} is valid only in {}; check the clocks of both machines",
            between(*time, *not_before)
        ),
        CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => format!(
            "the certificate of {host} is for {}, not for {host}; use one of these names in the address, or issue a \
             certificate for this one",
            presented.join(", ")
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("the certificate of {host} is not for {host}; issue one with this name as subject alternative name")
        }
        CertificateError::Revoked => format!("the certificate of {host} is revoked; replace it there"),
        other if other.to_string().contains("CaUsedAsEndEntity") => format!(
            "the certificate of {host} is itself a CA (self-signed); have a CA sign one for the daemon, and give that CA \
             (--ca, MUSTERD_CA)"
        ),
        other => format!("the certificate of {host} cannot be accepted: {other}; replace it there"),
    }
}

/// A span of time in its largest unit.
fn between(from: UnixTime, to: UnixTime) -> String {
    let seconds = Duration::from_secs(to.as_secs().saturating_sub(from.as_secs())).as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::*;

    fn explained(error: impl Into<Error>, identity: Option<&str>) -> String {
        let peer = Peer { host: "db".into(), ca: Some("/ca.pem".into()), identity: identity.map(PathBuf::from) };
        explain(&io::Error::new(io::ErrorKind::InvalidData, error.into()), &peer).to_string()
    }

    #[test]
    fn refused_certificate_is_explained_with_the_fix() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = ServerName::try_from("db").unwrap();
        for (error, parts) in [
            (CertificateError::UnknownIssuer, ["no CA in /ca.pem has signed", "--ca, MUSTERD_CA"]),
            (
                CertificateError::ExpiredContext { time: at(1_000_000), not_after: at(740_800) },
                ["expired 3 days ago", "renew it"],
            ),
            (
                CertificateError::NotValidYetContext { time: at(0), not_before: at(600) },
                ["valid only in 10 min", "clocks"],
            ),
            (
                CertificateError::NotValidForNameContext { expected: name, presented: vec!["DnsName(\"a\")".into()] },
                ["is for DnsName(\"a\"), not for db", "use one of these names"],
            ),
        ] {
            let text = explained(error, None);
            assert!(parts.iter().all(|part| text.contains(part)) && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn missing_certificate_is_distinguished_from_a_refused_one() {
        let alert = || Error::AlertReceived(AlertDescription::CertificateRequired);
        assert!(explained(alert(), None).contains("asks for a client certificate"));
        assert!(explained(alert(), Some("/c.pem")).contains("refuses the certificate /c.pem"));
    }
}
