//! What callers may send: limits, and the one place where a text becomes a value.
//!
//! Every refusal names the field, the limit and the fix. Whatever is accepted here can be stored and read back
//! equal: a property test holds that promise against PostgreSQL.

use std::{net::IpAddr, time::Duration};

use thiserror::Error;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};
use uuid::Uuid;

use super::ids::{EpochId, InstanceId, LogicalId};

/// Longest logical id, in bytes: that of a DNS name.
pub const LOGICAL_ID_MAX_BYTES: usize = 253;
/// Longest actor name, node id or version, in bytes.
pub const NAME_MAX_BYTES: usize = 253;
/// Longest serve route, in bytes.
pub const SERVE_ROUTE_MAX_BYTES: usize = 1_024;
/// Most bytes of the reason for a status.
pub const STATUS_REASON_MAX_BYTES: usize = 256;
/// Longest reason an operator may give, in bytes.
pub const REASON_MAX_BYTES: usize = 1_024;
/// Most labels of an instance.
pub const LABELS_MAX: usize = 64;
/// Longest label key, in bytes.
pub const LABEL_KEY_MAX_BYTES: usize = 128;
/// Longest label value, in bytes.
pub const LABEL_VALUE_MAX_BYTES: usize = 512;
/// All keys and values of an instance together, in bytes.
pub const LABELS_MAX_BYTES: usize = 16 * 1_024;
/// Shortest TTL.
pub const TTL_MIN: Duration = Duration::from_secs(2);
/// Longest TTL.
pub const TTL_MAX: Duration = Duration::from_secs(300);
/// TTL where none is asked for: SeedCore's.
pub const TTL_DEFAULT: Duration = Duration::from_secs(15);
/// Largest process id: that of the SQL column.
pub const PID_MAX: i64 = i32::MAX as i64;

/// One field that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub struct InvalidInput {
    /// Path of the field, as the protocol names it.
    pub field: String,
    /// What is wrong, the limit, and the fix.
    pub problem: String,
}

/// Refuses a field.
pub fn invalid<T>(field: &str, problem: impl Into<String>) -> Result<T, InvalidInput> {
    Err(InvalidInput { field: field.to_owned(), problem: problem.into() })
}

/// How long a lease lives after a beat: 2 s to 300 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(u32);

impl Ttl {
    /// Accepts a TTL from a caller; `None` means the default.
    ///
    /// # Errors
    /// Outside 2 s to 300 s, or not whole milliseconds.
    pub fn from_input(field: &str, ttl: Option<Duration>) -> Result<Self, InvalidInput> {
        let ttl = ttl.unwrap_or(TTL_DEFAULT);
        if !(TTL_MIN..=TTL_MAX).contains(&ttl) || !ttl.subsec_nanos().is_multiple_of(1_000_000) {
            return invalid(field, format!("is {ttl:?}; choose whole milliseconds from 2 s to 300 s"));
        }
        Ok(Self::from_record(i64::try_from(ttl.as_millis()).ok()))
    }

    /// Takes over what PostgreSQL holds; null means the default.
    #[must_use]
    pub fn from_record(ttl_ms: Option<i64>) -> Self {
        let default = 15_000;
        Self(ttl_ms.and_then(|ttl_ms| u32::try_from(ttl_ms).ok()).unwrap_or(default))
    }

    /// In milliseconds.
    #[must_use]
    pub fn as_millis(self) -> u32 {
        self.0
    }

    /// As a duration.
    #[must_use]
    pub fn as_duration(self) -> Duration {
        Duration::from_millis(self.0.into())
    }

    /// How often to beat, in milliseconds: a third of it, so that two beats may be lost.
    #[must_use]
    pub fn beat_interval_ms(self) -> u64 {
        u64::from(self.0 / 3)
    }
}

/// Labels of an instance: sorted by key, each key once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// Accepts labels from a caller.
    ///
    /// # Errors
    /// Over 64 labels, a key of 0 or over 128 bytes, a value over 512 bytes, over 16 KiB in all, or a control
    /// character.
    pub fn from_input<'a>(
        field: &str,
        labels: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<Self, InvalidInput> {
        let labels: Vec<_> = labels.into_iter().collect();
        if labels.len() > LABELS_MAX {
            return invalid(field, format!("has {} labels; at most {LABELS_MAX} are allowed", labels.len()));
        }
        let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > LABELS_MAX_BYTES {
            return invalid(field, format!("has {bytes} bytes in all; at most {LABELS_MAX_BYTES} are allowed"));
        }
        for (key, value) in &labels {
            required_name(&format!("{field}.key"), key, LABEL_KEY_MAX_BYTES)?;
            plain_text(&format!("{field}[{key}]"), value, LABEL_VALUE_MAX_BYTES)?;
        }
        Ok(Self::from_record(labels.into_iter().map(|(key, value)| (key.as_str().into(), value.as_str().into()))))
    }

    /// Takes over what PostgreSQL holds.
    pub fn from_record(labels: impl IntoIterator<Item = (Box<str>, Box<str>)>) -> Self {
        let mut labels: Vec<_> = labels.into_iter().collect();
        labels.sort();
        labels.dedup_by(|later, earlier| later.0 == earlier.0);
        Self(labels.into())
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(other, _)| (**other).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| &**value)
    }

    /// Whether all of `others` are among these.
    #[must_use]
    pub fn contains(&self, others: &Self) -> bool {
        others.iter().all(|(key, value)| self.get(key) == Some(value))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// How many bytes keys and values have in all.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.iter().map(|(key, value)| key.len() + value.len()).sum()
    }
}

/// Accepts a text: at most `max_bytes`, no control characters (which PostgreSQL cannot hold, or which would reach the
/// terminal of an operator).
///
/// # Errors
/// Too long, or a control character.
pub fn plain_text(field: &str, text: &str, max_bytes: usize) -> Result<(), InvalidInput> {
    if text.len() > max_bytes {
        return invalid(field, format!("has {} bytes; shorten it to at most {max_bytes}", text.len()));
    }
    if let Some(character) = text.chars().find(|character| character.is_control()) {
        let problem = format!("has the control character U+{:04X}; remove it", u32::from(character));
        return invalid(field, problem);
    }
    Ok(())
}

/// Accepts a text that must not be empty.
///
/// # Errors
/// As [`plain_text`], and empty.
pub fn required_text(field: &str, text: &str, max_bytes: usize) -> Result<(), InvalidInput> {
    if text.is_empty() {
        return invalid(field, format!("is empty; give 1 to {max_bytes} bytes"));
    }
    plain_text(field, text, max_bytes)
}

/// The kind of a character that names may not have, because it does not show or because its look is not defined: with it two
/// names look alike on every screen. The SQL function `muster_hidden_character` has the same rule; a test compares both.
#[must_use]
pub fn hidden(character: char) -> Option<&'static str> {
    match character.general_category() {
        GeneralCategory::Control => Some("control"),
        GeneralCategory::Format => Some("format"),
        GeneralCategory::LineSeparator | GeneralCategory::ParagraphSeparator => Some("separator"),
        GeneralCategory::Surrogate => Some("surrogate"),
        GeneralCategory::PrivateUse => Some("private-use"),
        GeneralCategory::Unassigned => Some("unassigned"),
        _ => None,
    }
}

/// Accepts a name: a text in which every character shows.
///
/// # Errors
/// As [`plain_text`], and a character of the kinds that [`hidden`] tells.
pub fn name(field: &str, text: &str, max_bytes: usize) -> Result<(), InvalidInput> {
    plain_text(field, text, max_bytes)?;
    let found = text.chars().find_map(|character| Some((character, hidden(character)?)));
    if let Some((character, kind)) = found {
        return invalid(field, format!("has the {kind} character U+{:04X}; remove it", u32::from(character)));
    }
    Ok(())
}

/// Accepts a name that must not be empty.
///
/// # Errors
/// As [`name`], and empty.
pub fn required_name(field: &str, text: &str, max_bytes: usize) -> Result<(), InvalidInput> {
    required_text(field, text, max_bytes)?;
    name(field, text, max_bytes)
}

/// Accepts a name where empty means none.
///
/// # Errors
/// As [`name`].
pub fn optional_name(field: &str, text: String, max_bytes: usize) -> Result<Option<String>, InvalidInput> {
    name(field, &text, max_bytes)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// Accepts a logical id.
///
/// # Errors
/// Empty, over 253 bytes, or a character that does not show ([`hidden`]).
pub fn logical_id(field: &str, text: &str) -> Result<LogicalId, InvalidInput> {
    required_name(field, text, LOGICAL_ID_MAX_BYTES)?;
    Ok(LogicalId::from_record(text))
}

fn uuid(field: &str, text: &str) -> Result<Uuid, InvalidInput> {
    match Uuid::try_parse(text) {
        Ok(uuid) if !uuid.is_nil() => Ok(uuid),
        _ => invalid(field, "is not a UUID; write it like 6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10"),
    }
}

/// Accepts an instance id.
///
/// # Errors
/// Not a UUID, or the nil UUID.
pub fn instance_id(field: &str, text: &str) -> Result<InstanceId, InvalidInput> {
    uuid(field, text).map(InstanceId)
}

/// Accepts the id of an epoch; empty means none.
///
/// # Errors
/// Not a UUID, or the nil UUID.
pub fn optional_epoch(field: &str, text: &str) -> Result<Option<EpochId>, InvalidInput> {
    if text.is_empty() { Ok(None) } else { uuid(field, text).map(|uuid| Some(EpochId(uuid))) }
}

/// Accepts an address; empty means none.
///
/// # Errors
/// Neither IPv4 nor IPv6, or with a prefix length, zone or port.
pub fn optional_ip(field: &str, text: &str) -> Result<Option<IpAddr>, InvalidInput> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        Ok(ip) => Ok(Some(ip)),
        Err(_) => invalid(field, "is not an IP address; write IPv4 or IPv6 without prefix length, zone or port"),
    }
}

/// Accepts a port; 0 means none.
///
/// # Errors
/// Over 65535.
pub fn optional_port(field: &str, port: u32) -> Result<Option<u16>, InvalidInput> {
    match u16::try_from(port) {
        Ok(port) => Ok(Some(port).filter(|port| *port != 0)),
        Err(_) => invalid(field, format!("is {port}; choose 1 to 65535, or 0 for none")),
    }
}

/// Accepts a process id; 0 means none.
///
/// # Errors
/// Negative, or over 2147483647.
pub fn optional_pid(field: &str, pid: i64) -> Result<Option<u32>, InvalidInput> {
    match u32::try_from(pid) {
        Ok(pid) if i64::from(pid) <= PID_MAX => Ok(Some(pid).filter(|pid| *pid != 0)),
        _ => invalid(field, format!("is {pid}; choose 1 to {PID_MAX}, or 0 for none")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn limits_are_met_to_the_byte() {
        assert!(logical_id("logical_id", &"x".repeat(253)).is_ok());
        assert!(logical_id("logical_id", &"x".repeat(254)).is_err());
        assert!(logical_id("logical_id", &"ä".repeat(127)).is_err(), "bytes count, not characters");
        assert!(logical_id("logical_id", "").is_err());
        assert!(logical_id("logical_id", "a\0b").is_err());
        assert!(logical_id("logical_id", "a\u{85}b").is_err());
        for character in
            ['\u{200b}', '\u{202e}', '\u{2066}', '\u{feff}', '\u{2028}', '\u{e000}', '\u{378}', '\u{10ffff}']
        {
            let name = format!("organ{character}");
            let refused = logical_id("logical_id", &name).unwrap_err();
            assert!(refused.problem.contains(&format!("U+{:04X}", u32::from(character))), "{refused}");
            assert!(optional_name("node_id", name.clone(), 253).is_err());
            assert!(Labels::from_input("labels", [(&name, &String::new())]).is_err());
            assert!(Labels::from_input("labels", [(&String::from("key"), &name)]).is_ok(), "a value is no name");
        }
        assert!(logical_id("logical_id", "\u{f6}rgan \u{1f980} \u{4e2d}").is_ok(), "any script");
        assert!(optional_port("port", 65_535).is_ok());
        assert!(optional_port("port", 65_536).is_err());
        assert!(optional_pid("pid", -1).is_err());
        assert!(optional_pid("pid", PID_MAX).is_ok());
        assert!(optional_pid("pid", PID_MAX + 1).is_err());
        assert!(optional_ip("ip_address", "10.0.0.0/8").is_err());
        assert!(optional_ip("ip_address", "fe80::1%eth0").is_err());
        assert!(instance_id("instance_id", "00000000-0000-0000-0000-000000000000").is_err());
    }

    #[test]
    fn a_ttl_has_bounds_and_whole_milliseconds() {
        for (millis, accepted) in [(1_999, false), (2_000, true), (300_000, true), (300_001, false)] {
            assert_eq!(Ttl::from_input("ttl", Some(Duration::from_millis(millis))).is_ok(), accepted, "{millis}");
        }
        assert!(Ttl::from_input("ttl", Some(Duration::from_nanos(2_000_000_001))).is_err());
        assert_eq!(Ttl::from_input("ttl", None).map(Ttl::as_duration), Ok(TTL_DEFAULT));
    }

    #[test]
    fn labels_have_limits_of_number_and_size() {
        let label = |key: usize, value: usize| ("k".repeat(key), "v".repeat(value));
        let accepts = |labels: &[(String, String)]| {
            Labels::from_input("labels", labels.iter().map(|(key, value)| (key, value))).is_ok()
        };
        assert!(accepts(&[label(128, 512)]));
        assert!(!accepts(&[label(129, 1)]));
        assert!(!accepts(&[label(1, 513)]));
        assert!(!accepts(&[label(0, 1)]));
        let many: Vec<_> = (0..65).map(|n| (format!("k{n}"), String::new())).collect();
        assert!(accepts(&many[..64]) && !accepts(&many));
        let large: Vec<_> = (0..33).map(|n| (format!("{n:02}"), "v".repeat(500))).collect();
        assert!(accepts(&large[..32]) && !accepts(&large));
    }

    proptest! {
        #[test]
        fn no_text_from_outside_panics(text in any::<String>(), port in any::<u32>(), pid in any::<i64>()) {
            let _ = logical_id("f", &text);
            let _ = instance_id("f", &text);
            let _ = optional_ip("f", &text);
            let _ = optional_port("f", port);
            let _ = optional_pid("f", pid);
        }

        #[test]
        fn labels_are_found_by_their_keys(labels in prop::collection::btree_map("[a-z]{1,3}", "[a-z]{0,3}", 0..20)) {
            let accepted = Labels::from_input("labels", &labels).unwrap();
            for (key, value) in &labels {
                prop_assert_eq!(accepted.get(key), Some(value.as_str()));
            }
            prop_assert!(accepted.contains(&accepted));
            prop_assert_eq!(accepted.iter().count(), labels.len());
        }
    }
}
