//! What a search for a text finds: a logical id, and, if that is asked for, a node, an address or an instance id.
//!
//! Texts are compared without regard to case. What costs is bounded by what the text can mean: an address is looked for
//! only if the text could be part of one, an instance id only if it is one or begins one, in eight digits or more. (Three
//! hexadecimal digits begin an id in every large fleet.)

use std::fmt::Write as _;

use crate::{
    model::{InstanceId, LogicalId},
    view::Entry,
};

/// An instance id is looked for by so many of its digits or more: what tools print as a short id.
const ID_DIGITS_MIN: usize = 8;
/// The digits of an instance id.
const ID_DIGITS: usize = 32;

/// What is searched for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    text: String,
    lower: String,
    is_for_instances: bool,
    /// Whether the text could be part of an address.
    may_be_address: bool,
    /// The digits of the text, if it begins an instance id.
    id_digits: Vec<u8>,
}

/// What was found of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The node it runs on.
    Node,
    /// Its address, with or without the port.
    Address,
    /// Its instance id.
    InstanceId,
}

impl Found {
    /// The word for it: the field of an instance.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "nodeId",
            Self::Address => "ipAddress",
            Self::InstanceId => "instanceId",
        }
    }
}

impl Search {
    /// Finds logical ids that contain a text; an empty one finds all.
    #[must_use]
    pub fn names(text: &str) -> Self {
        Self { text: text.to_owned(), lower: text.to_lowercase(), ..Self::default() }
    }

    /// Finds also logical ids of instances whose node, address or instance id fits the text.
    #[must_use]
    pub fn everything(text: &str) -> Self {
        let digits = digits(text).filter(|digits| (ID_DIGITS_MIN..=ID_DIGITS).contains(&digits.len()));
        let is_of_address = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '[' | ']');
        Self {
            is_for_instances: !text.is_empty(),
            may_be_address: text.contains(['.', ':']) && text.chars().all(is_of_address),
            id_digits: digits.unwrap_or_default(),
            ..Self::names(text)
        }
    }

    /// What is searched for, as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether more than the logical id is looked at.
    #[must_use]
    pub fn is_for_instances(&self) -> bool {
        self.is_for_instances
    }

    /// The instance id that the text is, if it is a whole one.
    #[must_use]
    pub fn instance_id(&self) -> Option<InstanceId> {
        let is_whole = self.is_for_instances && self.id_digits.len() == ID_DIGITS;
        self.text.parse().ok().filter(|_| is_whole).map(InstanceId)
    }

    /// Whether it finds a logical id.
    #[must_use]
    pub fn finds_name(&self, logical_id: &LogicalId) -> bool {
        contains(logical_id.as_str(), &self.lower)
    }

    /// What it finds of an instance, its logical id apart.
    #[must_use]
    pub fn finds(&self, entry: &Entry) -> Option<Found> {
        let instance = &entry.instance;
        if instance.node_id.as_deref().is_some_and(|node| contains(node, &self.lower)) {
            return Some(Found::Node);
        }
        if !self.id_digits.is_empty() {
            let id = instance.instance_id.0.as_bytes();
            let nibbles = id.iter().flat_map(|byte| [byte >> 4, byte & 15]);
            if nibbles.zip(&self.id_digits).all(|(nibble, digit)| nibble == *digit) {
                return Some(Found::InstanceId);
            }
        }
        let ip = instance.ip_address.filter(|_| self.may_be_address)?;
        let mut address = String::new();
        // Writing to a string does not fail.
        let _ = match (ip, instance.port) {
            (ip, None) => write!(address, "{ip}"),
            (std::net::IpAddr::V4(ip), Some(port)) => write!(address, "{ip}:{port}"),
            (std::net::IpAddr::V6(ip), Some(port)) => write!(address, "[{ip}]:{port}"),
        };
        address.contains(&self.lower).then_some(Found::Address)
    }
}

/// The hexadecimal digits of a text that has nothing else in it but hyphens.
fn digits(text: &str) -> Option<Vec<u8>> {
    let digits = text.chars().filter(|c| *c != '-').map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()));
    digits.collect()
}

/// Whether a text contains another one that is in lower case already. Almost all names are ASCII, and there may be a
/// million: those are compared in place.
fn contains(text: &str, lower: &str) -> bool {
    if lower.is_empty() {
        return true;
    }
    if !text.is_ascii() {
        return text.to_lowercase().contains(lower);
    }
    let (text, lower) = (text.as_bytes(), lower.as_bytes());
    text.windows(lower.len()).any(|part| part.eq_ignore_ascii_case(lower))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digits_of_an_id_are_those_of_a_whole_one_or_of_its_beginning() {
        let id = "6f9619ff-8b86-d011-b42d-00cf4fc964ff";
        let whole = Search::everything(id);
        assert_eq!(whole.instance_id().map(|id| id.to_string()).as_deref(), Some(id));
        assert_eq!(Search::everything("6F9619FF").id_digits, [6, 15, 9, 6, 1, 9, 15, 15]);
        for text in ["6f9619f", "gpu-node-07", "", "10.0.0.1"] {
            assert!(Search::everything(text).id_digits.is_empty(), "{text}");
        }
        assert_eq!(Search::names(id).instance_id(), None);
    }

    #[test]
    fn search_for_an_address_takes_parts_of_one() {
        for (text, may_be) in
            [("10.0", true), (":8000", true), ("[fe80::", true), ("organ.1", false), ("8000", false), ("", false)]
        {
            assert_eq!(Search::everything(text).may_be_address, may_be, "{text}");
        }
    }

    proptest! {
        #[test]
        fn texts_are_compared_as_in_lower_case(text in ".{0,12}|[aAbBé]{0,8}", part in ".{0,2}|[aAbBé]{0,3}") {
            let search = Search::names(&part);
            let expected = text.to_lowercase().contains(&part.to_lowercase());
            prop_assert_eq!(search.finds_name(&LogicalId::from_record(&text)), expected);
        }
    }
}
