//! Page tokens: where a page ended, bound to the query it belongs to.
//!
//! A token is opaque to callers and holds no secret. It begins with a fingerprint of the query's conditions, so that
//! the token of another query is refused instead of silently giving a wrong page.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::answer_size::Room;
use crate::{
    model::{
        InstanceId, InvalidInput, LogicalId,
        input::{LOGICAL_ID_MAX_BYTES, invalid},
    },
    view::list::{Cursor, Filter},
};

const FINGERPRINT_BYTES: usize = 8;
const UUID_BYTES: usize = 16;
/// Longer than any token made here, so that nothing larger is decoded.
const TOKEN_MAX_BYTES: usize = 2 * (FINGERPRINT_BYTES + UUID_BYTES + 4 * LOGICAL_ID_MAX_BYTES);

type Fingerprint = [u8; FINGERPRINT_BYTES];

/// Makes the token of the page after `position`.
#[must_use]
pub fn encode(filter: &Filter, position: &Cursor) -> String {
    let mut bytes = fingerprint(filter).to_vec();
    bytes.extend_from_slice(position.instance_id.0.as_bytes());
    bytes.extend_from_slice(position.logical_id.as_str().as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a token; empty means the first page.
///
/// # Errors
/// Not a token of this query.
pub fn decode(field: &str, filter: &Filter, token: &str) -> Result<Option<Cursor>, InvalidInput> {
    if token.is_empty() {
        return Ok(None);
    }
    match parse(token) {
        Some((of_query, position)) if of_query == fingerprint(filter) => Ok(Some(position)),
        _ => invalid(
            field,
            "is not a token of this query; repeat the conditions of the first page, or start without a token",
        ),
    }
}

/// Makes the token of the page of what is numbered below `before`: epochs, decisions.
#[must_use]
fn encode_number(before: u64) -> String {
    URL_SAFE_NO_PAD.encode(before.to_be_bytes())
}

/// Reads such a token; empty means the first page.
///
/// # Errors
/// Not a token of this query.
pub fn decode_number(field: &str, token: &str) -> Result<u64, InvalidInput> {
    if token.is_empty() {
        return Ok(i64::MAX.cast_unsigned());
    }
    let bytes = if token.len() > TOKEN_MAX_BYTES { None } else { URL_SAFE_NO_PAD.decode(token).ok() };
    match bytes.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()) {
        Some(bytes) => Ok(u64::from_be_bytes(bytes)),
        None => invalid(field, "is not a token of this query; start without a token"),
    }
}

/// A page of what is numbered down to 1, the newest first: what of it has room in an answer, and the token of the page after it,
/// which is empty after the last.
#[must_use]
pub(crate) fn numbered<T: Message>(
    found: impl ExactSizeIterator<Item = T>,
    page_size: usize,
    number: impl Fn(&T) -> u64,
) -> (Vec<T>, String) {
    let count = found.len();
    let page = Room::new().fill(found);
    let has_more = count == page_size || page.len() < count;
    let last = page.last().map(number).filter(|last| has_more && *last > 1);
    (page, last.map(encode_number).unwrap_or_default())
}

fn parse(token: &str) -> Option<(Fingerprint, Cursor)> {
    if token.len() > TOKEN_MAX_BYTES {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (fingerprint, rest) = bytes.split_first_chunk::<FINGERPRINT_BYTES>()?;
    let (instance_id, logical_id) = rest.split_first_chunk::<UUID_BYTES>()?;
    let position = Cursor {
        logical_id: LogicalId::from_record(std::str::from_utf8(logical_id).ok()?),
        instance_id: InstanceId(Uuid::from_bytes(*instance_id)),
    };
    Some((*fingerprint, position))
}

/// Every text with its length before it, every list with its number, so that no two filters read alike.
fn fingerprint(filter: &Filter) -> Fingerprint {
    let mut hash = Sha256::new();
    add_text(&mut hash, &filter.logical_id);
    add_text(&mut hash, &filter.logical_id_prefix);
    add_text(&mut hash, &filter.node_id);
    add_number(&mut hash, filter.labels.iter().count());
    for (key, value) in filter.labels.iter() {
        add_text(&mut hash, key);
        add_text(&mut hash, value);
    }
    add_text(&mut hash, &filter.alive_at.map(|time| time.to_rfc3339()).unwrap_or_default());
    add_number(&mut hash, filter.statuses.len());
    for status in &filter.statuses {
        add_text(&mut hash, status.as_str());
    }
    let digest = hash.finalize();
    std::array::from_fn(|byte| digest[byte])
}

fn add_text(hash: &mut Sha256, text: &str) {
    add_number(hash, text.len());
    hash.update(text.as_bytes());
}

fn add_number(hash: &mut Sha256, number: usize) {
    hash.update((number as u64).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(prefix: &str) -> Filter {
        Filter { logical_id_prefix: prefix.into(), ..Filter::default() }
    }

    #[test]
    fn the_token_of_another_query_is_refused() {
        let position = Cursor { logical_id: LogicalId::from_record("a"), instance_id: InstanceId(Uuid::from_u128(1)) };
        let token = encode(&filter("a"), &position);
        assert_eq!(decode("page_token", &filter("a"), &token), Ok(Some(position)));
        assert!(decode("page_token", &filter("b"), &token).is_err());
        assert!(decode("page_token", &filter("a"), "nonsense").is_err());
        assert!(decode_number("page_token", &token).is_err());
    }

    proptest! {
        #[test]
        fn a_token_leads_back_to_its_position(name in "\\PC{0,60}", id in any::<u128>(), prefix in "[a-z]{0,5}") {
            let position =
                Cursor { logical_id: LogicalId::from_record(&name), instance_id: InstanceId(Uuid::from_u128(id)) };
            let token = encode(&filter(&prefix), &position);
            prop_assert_eq!(decode("page_token", &filter(&prefix), &token), Ok(Some(position)));
        }

        #[test]
        fn no_token_from_outside_panics(token in any::<String>(), bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for token in [token, URL_SAFE_NO_PAD.encode(bytes)] {
                let _ = decode("page_token", &filter(""), &token);
                let _ = decode_number("page_token", &token);
            }
        }

        #[test]
        fn a_token_that_was_changed_leads_to_no_other_query(at in 0..FINGERPRINT_BYTES, change in 1..=u8::MAX) {
            let position =
                Cursor { logical_id: LogicalId::from_record("a"), instance_id: InstanceId(Uuid::from_u128(1)) };
            let mut bytes = URL_SAFE_NO_PAD.decode(encode(&filter("a"), &position)).unwrap();
            bytes[at] ^= change;
            prop_assert!(decode("page_token", &filter("a"), &URL_SAFE_NO_PAD.encode(bytes)).is_err());
        }
    }
}
