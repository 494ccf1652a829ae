//! How much one answer may hold: no more than a gRPC client takes without being told to.
//!
//! That is 4 MiB, and a client that is sent more fails the whole call with RESOURCE_EXHAUSTED, which no repetition cures.
//! So each answer that repeats something (instances, results, names, daemons, epochs) measures what it takes up as it
//! will be encoded, and stops in time: a page ends early, the results of a batch that do not fit say so.

use prost::{Message, length_delimiter_len};

/// The largest answer, in bytes: what clients of every language take by default.
pub const ANSWER_MAX_BYTES: usize = 4 * 1024 * 1024;
/// What is kept for all of an answer that is not repeated: a page token, ids, a reason.
const REST_BYTES: usize = 64 * 1024;
/// The largest tag of a field with a number below 2,048.
const TAG_BYTES: usize = 2;

/// What is left of the room in an answer.
#[derive(Debug)]
pub(crate) struct Room {
    left: usize,
}

impl Room {
    /// The room of an answer that repeats nothing yet.
    pub(crate) fn new() -> Self {
        Self { left: ANSWER_MAX_BYTES - REST_BYTES }
    }

    /// Keeps a part of it for `count` elements of at most so many bytes each.
    pub(crate) fn reserve(&mut self, count: usize, bytes: usize) {
        self.left = self.left.saturating_sub(count * element_bytes(bytes));
    }

    /// Takes up an element that is encoded to so many bytes, if there is room for it. Returns whether there was.
    pub(crate) fn take(&mut self, encoded_bytes: usize) -> bool {
        let bytes = element_bytes(encoded_bytes);
        let fits = bytes <= self.left;
        if fits {
            self.left -= bytes;
        }
        fits
    }

    /// Takes up as many of these as fit, in order, and at least the first, so that each page leads on to the next.
    pub(crate) fn fill<M: Message>(&mut self, elements: impl Iterator<Item = M>) -> Vec<M> {
        let mut taken = Vec::new();
        for element in elements {
            if !self.take(element.encoded_len()) && !taken.is_empty() {
                break;
            }
            taken.push(element);
        }
        taken
    }
}

/// What an element of a repeated field takes up.
pub(crate) fn element_bytes(encoded_bytes: usize) -> usize {
    TAG_BYTES + length_delimiter_len(encoded_bytes) + encoded_bytes
}

#[cfg(test)]
mod tests {
    use crate::{model::input, proto::v1};

    use super::*;

    /// An instance that is as large as may be registered.
    fn largest() -> v1::Instance {
        let label = |number: usize| (format!("{number:0>100}"), "v".repeat(input::LABELS_MAX_BYTES / 64 - 100));
        v1::Instance {
            instance_id: "i".repeat(36),
            logical_id: "l".repeat(input::LOGICAL_ID_MAX_BYTES),
            lease_id: u64::MAX,
            cluster_epoch: "e".repeat(36),
            actor_name: "a".repeat(input::NAME_MAX_BYTES),
            serve_route: "r".repeat(input::SERVE_ROUTE_MAX_BYTES),
            node_id: "n".repeat(input::NAME_MAX_BYTES),
            version: "v".repeat(input::NAME_MAX_BYTES),
            labels: (0..input::LABELS_MAX).map(label).collect(),
            owner: "o".repeat(2_048),
            ..Default::default()
        }
    }

    #[test]
    fn elements_fill_an_answer_up_to_the_limit_and_not_beyond() {
        let taken = Room::new().fill(std::iter::repeat_n(largest(), 1_000));
        let answer = v1::ListInstancesResponse { instances: taken, ..Default::default() };
        let bytes = answer.encoded_len();
        assert!(bytes <= ANSWER_MAX_BYTES - REST_BYTES, "{bytes}");
        assert!(bytes + largest().encoded_len() + 8 > ANSWER_MAX_BYTES - REST_BYTES, "{bytes}: one more would fit");
    }

    #[test]
    fn page_holds_at_least_one_element_whatever_its_size() {
        let huge = v1::Epoch { reason: "x".repeat(ANSWER_MAX_BYTES), ..Default::default() };
        assert_eq!(Room::new().fill(std::iter::repeat_n(huge, 3)).len(), 1);
    }

    #[test]
    fn answer_with_one_instance_never_comes_near_the_limit() {
        assert!(largest().encoded_len() < REST_BYTES);
    }
}
