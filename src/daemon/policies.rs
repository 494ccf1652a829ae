//! Puts digests of the policy and the tokens in use on the list of daemons, so that each daemon sees when another one has others.
//!
//! The list is compared with what is in use, and written when they differ: after a reload, and when this daemon was evicted and
//! has entered again.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::parts::Parts;
use crate::{
    access::Access,
    lifecycle::Stage,
    metrics::PolicyMetrics,
    store::{self, Pool},
    telemetry::chain,
};

/// How often the two are compared.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Starts to compare.
pub(super) fn start(parts: &Parts, stop: CancellationToken) {
    let (pool, view, health) = (parts.pool.clone(), parts.view.clone(), parts.health.clone());
    let (access, daemon_id) = (parts.security.access(), parts.identity.daemon_id);
    // Made here, where it belongs to this registry of several.
    let metrics = PolicyMetrics::new();
    let telling = async move {
        let mut generation = access.generation();
        let (mut text, mut number) = fingerprint(&access);
        while stop.run_until_cancelled(sleep(PERIOD)).await.is_some() {
            // Once for each reload: ten thousand tokens are a megabyte to read.
            if access.generation() != generation {
                generation = access.generation();
                (text, number) = fingerprint(&access);
            }
            metrics.fingerprint.set(number);
            let daemons = view.daemons();
            let is_told =
                daemons.present.iter().any(|it| it.daemon_id == daemon_id && it.policy.as_ref() == Some(&text));
            if !is_told && health.permit_change().is_ok() {
                let _ = stop.run_until_cancelled(tell(&pool, daemon_id, &text)).await;
            }
        }
    };
    parts.lifecycle.spawn_essential(Stage::Engine, "policy on the list of daemons", telling);
}

async fn tell(pool: &Pool, daemon_id: uuid::Uuid, text: &str) {
    let told = store::expiry::daemon_policy(pool, daemon_id, text, Instant::now() + TIMEOUT).await;
    if let Err(error) = told {
        // That the database is away is reported by the feed; the next comparison tries again.
        tracing::debug!(error = chain(&error), "policy could not be put on the list of daemons");
    }
}

/// The text for the list, and a number that a metric holds exactly.
fn fingerprint(access: &Access) -> (String, f64) {
    let Some([policy, tokens]) = access.digests() else { return ("none".to_owned(), 0.0) };
    let short = |digest: &[u8; 32]| digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect::<String>();
    // Of each 24 bits; never 0, which stands for no policy.
    let bits = |[first, second, third, ..]: [u8; 32]| f64::from(u32::from_be_bytes([0, first, second, third]));
    (format!("{}/{}", short(&policy), short(&tokens)), bits(policy) * 16_777_216.0 + bits(tokens) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::{Policy, Tokens},
        clock::Clock,
    };

    fn of(policy: &str, tokens: &str) -> (String, f64) {
        let (policy, tokens) = (Policy::parse(policy).unwrap(), Tokens::parse(tokens).unwrap());
        fingerprint(&Access::new(policy, tokens, Clock::new()))
    }

    #[test]
    fn fingerprint_changes_with_the_meaning_and_not_with_the_layout() {
        let (a, b) = (
            "[[rule]]\nwho=[\"token/a\", \"token/b\"]\nmay=[\"read\"]\non=[\"x\"]\n",
            "[[rule]]\nwho=[\"token/c\"]\nmay=[\"resolve\"]\non=[\"y\"]\n",
        );
        let one = of(&format!("{a}{b}"), "");
        let same = format!("# a comment\n{b}{}", a.replace("\"token/a\", \"token/b\"", "\"token/b\", \"token/a\""));
        assert_eq!(of(&same, "# none\n"), one);
        let differs = |policy: &str, tokens: &str| of(policy, tokens).0 != one.0 && of(policy, tokens).1 > 0.0;
        for changed in [("read", "beat"), ("token/c", "token/d"), ("\"y\"", "\"y*\"")] {
            let policy = format!("{a}{b}").replace(changed.0, changed.1);
            assert!(differs(&policy, ""), "{changed:?}");
        }
        assert!(differs(a, ""), "a rule less");
        assert!(differs(&format!("{a}{b}limits = {{ records = 7 }}\n"), ""));
        let tokens = of(&format!("{a}{b}"), &format!("a sha256:{}\n", "0".repeat(64)));
        let part = |text: &str, at: usize| text.split('/').nth(at).unwrap().to_owned();
        assert_eq!(part(&tokens.0, 0), part(&one.0, 0), "the same policy");
        assert_ne!((part(&tokens.0, 1), tokens.1), (part(&one.0, 1), one.1), "other tokens");
        assert_eq!(fingerprint(&Access::open()), ("none".to_owned(), 0.0));
    }
}
