//! Everything that a first secured daemon needs, and further certificates of its CA.

use std::{fs, path::PathBuf, time::Duration};

use chrono::{DateTime, Utc};

use super::{
    directory::{Directory, Error, replace},
    tokens,
};
use crate::tls::{Authority, Subject};

/// How long a certificate is valid unless it is said: 90 days.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// The client that `init` makes.
const OPERATOR: &str = "operator";

/// The first policy. It holds for the operator alone, and shows the form of the rules that come next.
const POLICY: &str = r#"# Who may do what on which logical ids. What no rule grants is refused.
# The daemon takes a change within seconds; check it first: musterd policy check FILE

# The operator, by token or by client certificate.
[[rule]]
who = ["token/operator", "cert/operator"]
may = ["register", "beat", "resolve", "read", "operate", "cluster", "metrics"]
on  = ["*"]

# An actor registers under names that begin with its own:
#
# [[rule]]
# who = ["token/svc-a"]
# may = ["register", "resolve"]
# on  = ["svc-a", "svc-a_*"]

# A router resolves every name:
#
# [[rule]]
# who = ["cert/router"]
# may = ["resolve", "read"]
# on  = ["*"]

# Prometheus scrapes without a credential:
#
# [[rule]]
# who = ["anonymous"]
# may = ["metrics"]
"#;

/// Makes a CA, a certificate for a daemon under these names, and a certificate, a token and the rights of an operator.
/// Returns the files.
///
/// # Errors
/// [`Error`]: one of the files is there already, or cannot be made.
pub fn init(directory: &Directory, names: Vec<String>, now: DateTime<Utc>) -> Result<Vec<PathBuf>, Error> {
    let pairs = ["ca", "server", OPERATOR].map(|name| [directory.certificate(name), directory.key(name)]);
    let others = [directory.token(OPERATOR), directory.tokens(), directory.policy()];
    let made: Vec<PathBuf> = pairs.into_iter().flatten().chain(others).collect();
    if let Some(present) = made.iter().find(|path| fs::symlink_metadata(path).is_ok()) {
        return Err(Error::Exists(present.clone()));
    }
    directory.make()?;
    let authority = Authority::create("musterd CA", now)?;
    directory.write_issued("ca", &authority)?;
    let authority = Authority::from_pem(&authority.certificate, &authority.key)?;
    let operator = Subject::Client { name: OPERATOR.to_owned(), spiffe: None };
    for (name, subject) in [("server", Subject::Server(names)), (OPERATOR, operator)] {
        directory.write_issued(name, &authority.issue(&subject, LEAF_LIFETIME, now)?)?;
    }
    tokens::create(directory, OPERATOR, None)?;
    replace(&directory.policy(), POLICY, 0o644)?;
    Ok(made)
}

/// Makes or renews a certificate of the CA in the directory, and its key. Returns the files.
///
/// # Errors
/// [`Error`]: there is no CA, or it cannot sign this.
pub fn issue(
    directory: &Directory,
    name: &str,
    subject: &Subject,
    lifetime: Duration,
    now: DateTime<Utc>,
) -> Result<[PathBuf; 2], Error> {
    directory.write_issued(name, &directory.authority()?.issue(subject, lifetime, now)?)?;
    Ok([directory.certificate(name), directory.key(name)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Identity, Policy, Verb};

    #[test]
    fn first_policy_is_valid_and_gives_the_operator_every_verb() {
        let policy = Policy::parse(POLICY).unwrap();
        let uncommented =
            POLICY.lines().map(|line| line.strip_prefix("# ").filter(|it| it.contains(['[', '='])).unwrap_or(line));
        let examples = uncommented.collect::<Vec<_>>().join("\n");
        assert!(Policy::parse(&examples).is_ok_and(|policy| policy.len() == 4), "{examples}");
        for who in ["token/operator", "cert/operator"] {
            let operator = Identity::parse(who).unwrap();
            assert!(Verb::ALL.into_iter().all(|verb| policy.allows(&operator, verb, "x").is_some()), "{who}");
        }
        assert!(!policy.names_anonymous());
    }
}
