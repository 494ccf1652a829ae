//! "Did you mean": the name on record that is most like one that is not.
//!
//! Cheap on purpose: at most two pages of instances are read, those that begin alike and the first of all, and a daemon
//! that does not answer costs no more than the suggestion.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use musterd_client::{Client, Filter, Reason};

use super::exit::Error;

/// A suggestion differs in at most one of so many characters.
const CHARACTERS_PER_ERROR: usize = 3;

/// The error of a read about a name, with a suggestion if it says that the name is not on record.
pub(crate) async fn name(error: musterd_client::Error, name: &str, client: &Client) -> Error {
    let is_unknown = error.reason() == Reason::UnknownLogicalId;
    let error = Error::from(error);
    if !is_unknown {
        return error;
    }
    match closest(name, &names_like(name, client).await) {
        Some(known) => error.hinted(format!("did you mean `{known}`?")),
        None => error,
    }
}

/// Names on record: some that begin as this one does, and the first of all.
async fn names_like(name: &str, client: &Client) -> BTreeSet<String> {
    let beginning: String = name.chars().take(name.chars().count().div_ceil(2)).collect();
    let mut names = BTreeSet::new();
    for prefix in [beginning, String::new()] {
        let mut pages = Box::pin(client.pages(Filter::prefix(prefix).any_status()));
        if let Some(Ok(page)) = pages.next().await {
            names.extend(page.instances.into_iter().map(|instance| instance.logical_id));
        }
    }
    names
}

/// The name that differs least, if that is little: letters left out, added, changed or swapped, or written in the other
/// case; or a name that goes on where this one ends.
fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a String>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let distance = |other: &str| strsim::damerau_levenshtein(&lower, &other.to_lowercase());
    let tolerated = (lower.chars().count() / CHARACTERS_PER_ERROR).max(1);
    let candidates = known.into_iter().map(String::as_str).filter(|other| *other != name);
    candidates
        .map(|other| (distance(other), other))
        .filter(|(distance, other)| *distance <= tolerated || other.to_lowercase().starts_with(&lower))
        .min()
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestion_differs_little_from_the_input() {
        let known: Vec<String> =
            ["cognitive_organ_1", "cognitive_organ_2", "web", "web-admin"].map(str::to_owned).to_vec();
        for (name, suggestion) in [
            ("cognitive_organ1", Some("cognitive_organ_1")),
            ("cognitve_ogran_2", Some("cognitive_organ_2")),
            ("Cognitive_Organ_2", Some("cognitive_organ_2")),
            ("cognitive", Some("cognitive_organ_1")),
            ("wbe", Some("web")),
            ("web-", Some("web")),
            ("database", None),
            ("x", None),
        ] {
            assert_eq!(closest(name, &known), suggestion, "{name}");
        }
        assert_eq!(closest("web", &["web".to_owned()]), None, "the name itself is no suggestion");
    }
}
