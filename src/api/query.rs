//! The query of a URL: known parameters only, decoded strictly.
//!
//! A filter that is misspelt must not become a filter that is not there: Prometheus would scrape the whole fleet
//! instead of ten instances, without a visible reason. So a parameter that is unknown, given twice or not UTF-8 is
//! refused, by name.

use std::collections::HashMap;

use percent_encoding::percent_decode_str;

use crate::model::{InvalidInput, Labels, input::invalid};

/// Most characters of a text of the caller's that an answer repeats.
const ECHO_MAX: usize = 64;

/// The parameters of one request, in the order in which they were given.
#[derive(Debug)]
pub struct Query(Vec<(&'static str, String)>);

impl Query {
    /// Reads the query of a URL, of which `known` are the parameters.
    ///
    /// # Errors
    /// A parameter that is not known, or a value that is not UTF-8.
    pub fn read(query: Option<&str>, known: &[&'static str]) -> Result<Self, InvalidInput> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let read = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = decode(name).unwrap_or_else(|| name.to_owned());
            let Some(name) = known.iter().find(|known| **known == decoded) else {
                return invalid(&echo(&decoded), format!("is not a parameter here; choose from {}", known.join(", ")));
            };
            match decode(value) {
                Some(value) => Ok((*name, value)),
                None => invalid(name, "is not UTF-8; percent-encode it as UTF-8"),
            }
        };
        pairs.map(read).collect::<Result<_, _>>().map(Self)
    }

    /// The value of a parameter; `None` if it is not given.
    ///
    /// # Errors
    /// Given more than once.
    pub fn one(&self, name: &str) -> Result<Option<&str>, InvalidInput> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (first, None) => Ok(first),
            _ => invalid(name, "is given more than once; give it once"),
        }
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter; empty if it is not given.
    ///
    /// # Errors
    /// Given more than once.
    pub fn text(&self, name: &str) -> Result<&str, InvalidInput> {
        Ok(self.one(name)?.unwrap_or_default())
    }

    /// The labels that are asked for, each as `label=KEY=VALUE`.
    ///
    /// # Errors
    /// Not of that form, a key given twice, or beyond the limits of labels.
    pub fn labels(&self) -> Result<Labels, InvalidInput> {
        let mut labels = HashMap::new();
        for label in self.all("label") {
            let Some((key, value)) = label.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                return invalid("label", format!("is {}; write label=KEY=VALUE", quoted(label)));
            };
            if labels.insert(key.to_owned(), value.to_owned()).is_some() {
                return invalid("label", format!("has the key {} twice; give each key once", quoted(key)));
            }
        }
        Labels::from_input("label", &labels)
    }
}

/// Decodes percent-encoding, and `+` as a space, as forms have it; `None` if it is not UTF-8.
fn decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// A text of the caller's as an answer may repeat it: short, on one line, in quotes.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", echo(text))
}

fn echo(text: &str) -> String {
    text.chars().take(ECHO_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: &[&str] = &["name", "label"];

    fn refused(query: &str) -> String {
        Query::read(Some(query), KNOWN).unwrap_err().to_string()
    }

    #[test]
    fn values_are_decoded_and_repeated_ones_kept_in_order() {
        let query = Query::read(Some("label=a%3Db&name=caf%C3%A9+1&&label=c=d"), KNOWN).unwrap();
        assert_eq!(query.one("name"), Ok(Some("café 1")));
        assert_eq!(query.all("label").collect::<Vec<_>>(), ["a=b", "c=d"]);
        assert_eq!(Query::read(None, KNOWN).unwrap().one("name"), Ok(None));
    }

    #[test]
    fn unknown_or_ambiguous_key_is_refused_by_name() {
        assert_eq!(refused("nmae=organ"), "nmae: is not a parameter here; choose from name, label");
        assert_eq!(refused("name=%FF"), "name: is not UTF-8; percent-encode it as UTF-8");
        let twice = Query::read(Some("name=a&name=b"), KNOWN).unwrap();
        assert_eq!(twice.one("name").unwrap_err().to_string(), "name: is given more than once; give it once");
    }

    proptest! {
        #[test]
        fn no_query_panics_and_every_refusal_is_one_short_line(query in any::<String>()) {
            if let Err(error) = Query::read(Some(&query), KNOWN) {
                let text = error.to_string();
                prop_assert!(!text.chars().any(char::is_control) && text.len() < 1_000, "{}", text);
            }
        }
    }
}
