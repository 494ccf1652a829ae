//! What the caller shows, and what the daemon makes of it: the files of token, certificate and key, the identity, its rights.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use chrono::{DateTime, Utc};
use musterd_client::{Grant, WhoAmI};

use super::finding::Finding;
use crate::{
    terminal::words::{age_text, moment},
    tls,
};

/// Clocks that differ by more make credentials expire early. An answer has whole seconds, and was under way.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);
/// A credential that ends sooner is to be renewed.
const RENEW_BEFORE: Duration = Duration::from_secs(24 * 60 * 60);

/// The files that a command was given.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Files<'a> {
    /// With the token.
    pub(crate) token: Option<&'a Path>,
    /// With the certificate.
    pub(crate) certificate: Option<&'a Path>,
    /// With its key.
    pub(crate) key: Option<&'a Path>,
}

/// One finding for each file.
pub(crate) fn files(files: Files<'_>, now: DateTime<Utc>) -> Vec<Finding> {
    let token = files.token.map(|path| secret("token file", path, now, token));
    let certificate = files.certificate.map(|path| certificate(path, now));
    let key = files.key.map(|path| secret("key", path, now, |text| key(text, files.certificate)));
    token.into_iter().chain(certificate).chain(key).collect()
}

/// A file that no other user may read; `judge` tells what is wrong with its text, and the fix.
fn secret(
    check: &'static str,
    path: &Path,
    now: DateTime<Utc>,
    judge: impl Fn(&str) -> Option<(String, &'static str)>,
) -> Finding {
    let shown = path.display();
    let read = fs::metadata(path).and_then(|metadata| Ok((metadata, fs::read_to_string(path)?)));
    let (metadata, text) = match read {
        Ok(read) => read,
        Err(error) => return unreadable(check, path, &error),
    };
    if let Some((found, fix)) = judge(&text) {
        return Finding::fail(check, format!("{shown} {found}"), fix);
    }
    let mode = metadata.permissions().mode();
    if mode & 0o077 != 0 {
        let found = format!("{shown} can be read by other users (mode {:04o})", mode & 0o7777);
        return Finding::warn(check, found, format!("chmod 600 {shown}, unless it is a mounted Kubernetes Secret"));
    }
    let written = metadata.modified().ok().and_then(|at| (now - DateTime::<Utc>::from(at)).to_std().ok());
    let age = written.map(|age| format!(", written {} ago", age_text(age))).unwrap_or_default();
    Finding::ok(check, format!("{shown} is readable by its owner alone{age}"))
}

fn unreadable(check: &'static str, path: &Path, error: &io::Error) -> Finding {
    let fix = "correct the path, or let this user read the file";
    Finding::fail(check, format!("{} cannot be read: {error}", path.display()), fix)
}

fn token(text: &str) -> Option<(String, &'static str)> {
    let token = text.trim();
    if token.is_empty() {
        return Some(("is empty".into(), "write a token of musterd token create into it, or one of the issuer"));
    }
    let is_one_word = !token.contains(char::is_whitespace);
    (!is_one_word).then_some(("has a space within the token".into(), "write one line with the token alone"))
}

/// A key, which has to be that of the certificate.
fn key(text: &str, certificate: Option<&Path>) -> Option<(String, &'static str)> {
    if !text.contains("PRIVATE KEY-----") {
        return Some(("has no private key in PEM form".into(), "give the file with -----BEGIN PRIVATE KEY-----"));
    }
    // What is wrong with the certificate is a finding of its own.
    let (path, certificate) = certificate.and_then(|path| Some((path, fs::read(path).ok()?)))?;
    match tls::is_pair(&certificate, text.as_bytes()) {
        Ok(true) => None,
        Ok(false) => {
            let found = format!("is not the key of the certificate {}", path.display());
            Some((found, "give the pair that musterd cert client, or the issuer, made together"))
        }
        Err(why) => tls::describe(&certificate).ok().map(|_| (format!("cannot be used: {why}"), "replace the key")),
    }
}

fn certificate(path: &Path, now: DateTime<Utc>) -> Finding {
    let check = "certificate";
    let pem = match fs::read(path) {
        Ok(pem) => pem,
        Err(error) => return unreadable(check, path, &error),
    };
    let shown = path.display();
    let fix = "musterd cert client makes one; see docs/security.md";
    let described = match tls::describe(&pem) {
        Ok(described) => described,
        Err(why) => return Finding::fail(check, format!("{shown} is no certificate: {why}"), fix),
    };
    let (name, left) = (described.subject, described.validity.left(now));
    if described.validity.not_before > now {
        return Finding::fail(check, format!("{name} of {shown} is not valid yet"), "check the clock of this machine");
    }
    expiring(check, &format!("{name} of {shown}"), left, fix)
}

/// By how long a credential is still good.
fn expiring(check: &'static str, what: &str, left: Duration, fix: &str) -> Finding {
    match left {
        Duration::ZERO => Finding::fail(check, format!("{what} has expired"), fix),
        left if left < RENEW_BEFORE => Finding::warn(check, format!("{what} expires in {}", age_text(left)), fix),
        left => Finding::ok(check, format!("{what} is good for another {}", age_text(left))),
    }
}

/// The clock of the daemon, by which it checks certificates and tokens, beside that of this machine.
pub(crate) fn clock(daemon: DateTime<Utc>, here: DateTime<Utc>) -> Finding {
    let ahead = daemon - here;
    let off = ahead.abs().to_std().unwrap_or_default();
    if off <= CLOCK_TOLERANCE {
        return Finding::ok("daemon clock", "that of the daemon and that of this machine agree");
    }
    let direction = if ahead > chrono::TimeDelta::zero() { "ahead of" } else { "behind" };
    let found = format!("the clock of the daemon is {} {direction} that of this machine", age_text(off));
    Finding::warn("daemon clock", found, "set both by NTP; the daemon checks certificates and tokens by its own")
}

/// What the daemon says of the caller: its identity, and its rights.
pub(crate) fn identity(known: &WhoAmI, now: DateTime<Utc>) -> Vec<Finding> {
    if !known.enforced {
        let found = "anonymous: the daemon has no policy, every caller may do everything";
        return vec![Finding::ok("identity", found)];
    }
    let WhoAmI { identity, kind, .. } = known;
    let what = format!("{identity}, by {kind}");
    // A token of an issuer is short-lived and renewed by the platform.
    let left = moment(known.expires_at).filter(|_| kind != "jwt").map(|end| (end - now).to_std().unwrap_or_default());
    let who = match left {
        Some(left) => {
            expiring("identity", &what, left, "renew the credential: musterd token create, musterd cert client")
        }
        None => Finding::ok("identity", what),
    };
    let right = |grant: &Grant| match grant.logical_ids.as_slice() {
        [] => grant.verb.clone(),
        names => format!("{} on {}", grant.verb, names.join(" ")),
    };
    let rights: Vec<String> = known.grants.iter().map(right).collect();
    let rights = match rights.is_empty() {
        true => {
            Finding::warn("rights", format!("{identity} may do nothing"), "add a rule with it in who to the policy")
        }
        false => Finding::ok("rights", rights.join("; ")),
    };
    vec![who, rights]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Severity;

    #[test]
    fn token_is_one_word_and_key_is_in_pem_form() {
        assert!(token("mstd_a_b\n").is_none() && token(" \n").is_some() && token("mstd_a b").is_some());
        let key = |text| key(text, None);
        assert!(key("-----BEGIN PRIVATE KEY-----").is_none() && key("-----BEGIN CERTIFICATE-----").is_some());
    }

    #[test]
    fn daemon_clock_that_differs_is_a_warning_with_the_direction() {
        let (here, of) = (DateTime::UNIX_EPOCH, |seconds| DateTime::from_timestamp(seconds, 0).unwrap());
        assert_eq!(clock(of(5), here).severity, Severity::Ok);
        let (ahead, behind) = (clock(of(3_600), here), clock(of(-60), here));
        assert!(ahead.found.contains("is 1h ahead of") && behind.found.contains("behind"), "{ahead:?} {behind:?}");
        assert_eq!([ahead.severity, behind.severity], [Severity::Warning; 2]);
    }

    #[test]
    fn identity_without_rights_or_near_its_end_is_a_warning() {
        let now = DateTime::UNIX_EPOCH;
        let mut known = WhoAmI::default();
        assert_eq!(identity(&known, now).len(), 1, "no policy");
        (known.enforced, known.identity, known.kind) = (true, "token/a".into(), "token".into());
        let severities = |known: &WhoAmI| identity(known, now).iter().map(|one| one.severity).collect::<Vec<_>>();
        assert_eq!(severities(&known), [Severity::Ok, Severity::Warning]);
        let mut grant = Grant::default();
        (grant.verb, grant.logical_ids) = ("read".into(), vec!["svc-*".into()]);
        known.grants = vec![grant];
        known.expires_at = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(3_600));
        assert_eq!(severities(&known), [Severity::Warning, Severity::Ok]);
        known.kind = "jwt".into();
        assert_eq!(severities(&known), [Severity::Ok; 2]);
        assert_eq!(identity(&known, now)[1].found, "read on svc-*");
    }
}
