//! The rules about what protects the ports of this daemon.

use super::{
    facts::Facts,
    problem::{Code, Problem, Severity},
    text::short,
};

/// A certificate that is renewed in time has more than this share of its life left.
const RENEWED_BY: u32 = 4;

pub(super) fn protection(facts: &Facts, found: &mut Vec<Problem>) {
    for certificate in &facts.certificates {
        let at = certificate.expires.format("%Y-%m-%d %H:%M:%S UTC");
        let (severity, summary) = if certificate.left.is_zero() {
            (Severity::Critical, format!("{} has expired at {at}", certificate.name))
        } else if certificate.left < certificate.lifetime / RENEWED_BY {
            (Severity::Warning, format!("{} expires in {}, at {at}", certificate.name, short(certificate.left)))
        } else {
            continue;
        };
        let action = "Clients refuse an expired certificate, so no new connection is made then. Renew it, and replace the \
                      file; the daemon takes it within seconds. Check why it was not renewed automatically.";
        let problem = Problem::new(Code::CertificateExpiring, severity, summary, action);
        found.push(problem.with_command("musterd cert server"));
    }
    for failure in &facts.security_failures {
        let summary = format!("Files on disk that protect this daemon are not in use: {failure}");
        let action = "The previous files stay in use; certificates until they expire. Correct the files; the daemon takes them \
                      within seconds.";
        found.push(Problem::new(Code::SecurityNotReloaded, Severity::Warning, summary, action));
    }
}
