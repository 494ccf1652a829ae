//! The rules about what protects the ports of this daemon.

use super::{
    facts::Facts,
    ports::Port,
    problem::{Code, Problem, Severity},
    text::short,
};

/// A certificate that is renewed in time has more than this share of its life left.
const RENEWED_BY: u32 = 4;

pub(super) fn protection(facts: &Facts, found: &mut Vec<Problem>) {
    open_ports(facts, found);
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
    if let Some(since) = facts.stale_list {
        let at = since.format("%Y-%m-%d %H:%M:%S UTC");
        let summary = format!("The list of revoked client certificates is out of date since {at}");
        let action = "The list stays in use, and what was revoked after it was made is accepted. Replace the file of \
                      --tls-client-crl; the daemon takes it within seconds. Check why it was not renewed automatically.";
        found.push(Problem::new(Code::RevocationListStale, Severity::Warning, summary, action));
    }
    for failure in &facts.security_failures {
        let summary = format!("Files on disk that protect this daemon are not in use: {failure}");
        let action = "The previous files stay in use; certificates until they expire. Correct the files; the daemon takes them \
                      within seconds.";
        found.push(Problem::new(Code::SecurityNotReloaded, Severity::Warning, summary, action));
    }
}

/// A port that other machines reach is a risk without identities. One without TLS alone is no problem of the daemon's: a service
/// mesh encrypts in front of it.
fn open_ports(facts: &Facts, found: &mut Vec<Problem>) {
    let is_open = |port: Port| port.on_network && !port.with_policy;
    let which = match (is_open(facts.ports.grpc), is_open(facts.ports.http)) {
        (true, true) => "The gRPC and the HTTP port of this daemon are",
        (true, false) => "The gRPC port of this daemon is",
        (false, true) => "The HTTP port of this daemon is",
        (false, false) => return,
    };
    let summary = format!("{which} open to the network without identities");
    let action = "Each machine that reaches gRPC may register and end instances and rotate the epoch; each that reaches HTTP \
                  reads all names, addresses and labels. Give --security-dir DIR (musterd security init DIR makes its files), \
                  or bind 127.0.0.1.";
    found.push(Problem::new(Code::OpenToNetwork, Severity::Warning, summary, action));
}
