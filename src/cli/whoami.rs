//! `musterd whoami`: which identity the daemon knows the caller by, and what that may do.

use musterd_client::{Grant, Quota, WhoAmI};
use serde_json::{Value, json};

use crate::{
    command::{
        client::ClientArgs,
        exit::{self, Error},
        instances::time,
    },
    json::{messages::timestamp, value::long},
    terminal::output::{self, DocumentArgs, Table},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  musterd whoami
  musterd whoami -o json | jq -r '.grants[] | select(.verb == \"register\") | .logicalIds[]'";

/// Arguments of `whoami`.
#[derive(Debug, clap::Args)]
pub struct WhoAmIArgs {
    #[command(flatten)]
    output: DocumentArgs,
}

pub(super) async fn run(args: WhoAmIArgs, client: &ClientArgs) -> Result<u8, Error> {
    let known = client.connect().await?.who_am_i().await?;
    output::print_answer(args.output.output, || document(&known), Vec::new, || text(&known))?;
    if !known.enforced {
        output::note("the daemon has no policy: every caller may do everything");
    } else if known.grants.is_empty() {
        output::note("no rule of the policy is for this identity; it needs one with it in who");
    }
    Ok(exit::OK)
}

/// The quota that counts by the second.
const RATE: &str = "registrations";

/// The limit of a quota, as a rule of the policy writes it.
pub(super) fn limit(unit: &str, limit: u64) -> String {
    if unit == RATE { format!("{limit}/s") } else { limit.to_string() }
}

/// `muster.v1.WhoAmIResponse`.
fn document(known: &WhoAmI) -> Value {
    let quota = |quota: &Quota| json!({ "unit": quota.unit, "limit": long(quota.limit), "used": long(quota.used) });
    let grant = |grant: &Grant| json!({ "verb": grant.verb, "logicalIds": grant.logical_ids });
    json!({
        "identity": known.identity,
        "kind": known.kind,
        "expiresAt": timestamp(known.expires_at),
        "grants": known.grants.iter().map(grant).collect::<Vec<_>>(),
        "enforced": known.enforced,
        "quotas": known.quotas.iter().map(quota).collect::<Vec<_>>(),
    })
}

fn text(known: &WhoAmI) -> String {
    let mut table = Table::new(["IDENTITY", "KIND", "EXPIRES", "MAY", "ON"]);
    let mut about = [known.identity.clone(), known.kind.clone(), time(known.expires_at)];
    let rights = known.grants.iter().map(|grant| [grant.verb.clone(), grant.logical_ids.join(" ")]);
    // Of a caller without rights one row tells at least what it is.
    let nothing = known.grants.is_empty().then(|| [String::new(), String::new()]);
    for [verb, names] in rights.chain(nothing) {
        let [identity, kind, expires] = std::mem::take(&mut about);
        table.row([identity, kind, expires, verb, names]);
    }
    let mut text = table.text();
    if !known.quotas.is_empty() {
        let mut quotas = Table::new(["QUOTA", "LIMIT", "USED"]);
        for quota in &known.quotas {
            // A rate is not used up.
            let used = if quota.unit == RATE { String::new() } else { quota.used.to_string() };
            quotas.row([quota.unit.clone(), limit(&quota.unit, quota.limit), used]);
        }
        text.push_str(&format!("\n{}", quotas.text()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_printed_one_per_line_below_the_identity() {
        let grant = |verb: &str, names: &[&str]| {
            let mut grant = Grant::default();
            grant.verb = verb.to_owned();
            grant.logical_ids = names.iter().map(|name| (*name).to_owned()).collect();
            grant
        };
        let mut known = WhoAmI::default();
        (known.identity, known.kind) = ("token/router".to_owned(), "token".to_owned());
        known.grants = vec![grant("resolve", &["*"]), grant("read", &["organ", "svc-*"])];
        let lines: Vec<String> =
            text(&known).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[0], "IDENTITY KIND EXPIRES MAY ON");
        assert!(lines[1].starts_with("token/router token") && lines[1].ends_with("resolve *"), "{lines:?}");
        assert!(lines[2].ends_with("read organ svc-*"), "{lines:?}");
        known.grants.clear();
        assert!(text(&known).contains("token/router"), "one without rights is told what it is");
    }
}
