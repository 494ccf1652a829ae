//! Which instances a router means: the conditions of a list, a watch, a choice, a batch.

use std::collections::HashMap;

use uuid::Uuid;

use super::{
    convert::{Violations, optional_time, page_size, required_status},
    failure::Failure,
    page_token,
};
use crate::{
    access::{Caller, Denied, Names, Verb},
    model::{
        Ended, Holder, InvalidInput, Labels,
        input::{self, LOGICAL_ID_MAX_BYTES, NAME_MAX_BYTES, invalid},
    },
    proto::v1,
    view::{
        list::{Cursor, Filter},
        resolve::{Choice, Policy},
    },
};

/// Most instances a choice may exclude.
const EXCLUDED_MAX: usize = 64;
/// Most names of a batch.
const NAMES_MAX: usize = 1_000;
/// Longest key of a rendezvous.
const KEY_MAX_BYTES: usize = 1_024;

/// What to list: the conditions, the size of the page, and where it begins.
pub(crate) fn list(request: &v1::ListInstancesRequest) -> Result<(Filter, usize, Option<Cursor>), Failure> {
    let mut violations = Violations::default();
    let prefix = &request.logical_id_prefix;
    let filter = filter(&mut violations, "", prefix, &request.statuses, &request.node_id, &request.labels);
    let alive_at = violations.take(optional_time("alive_at", request.alive_at));
    if alive_at.is_some() && !request.statuses.is_empty() {
        violations.take(invalid::<()>("statuses", "are set together with alive_at; give one of them"));
    }
    let filter = Filter { alive_at, ..filter };
    // A token belongs to its conditions: without them it cannot be checked.
    let after = if violations.is_empty() {
        violations.take(page_token::decode("page_token", &filter, &request.page_token))
    } else {
        None
    };
    let page_size = violations.take(page_size(request.page_size));
    violations.into_result()?;
    Ok((filter, page_size, after))
}

/// Which ended leases.
pub(crate) fn ended(request: &v1::ListEndedLeasesRequest) -> Result<Ended, Failure> {
    let mut violations = Violations::default();
    let holder = match (request.logical_id.as_str(), request.instance_id.as_str()) {
        (name, "") => {
            violations.take(input::required_text("logical_id", name, LOGICAL_ID_MAX_BYTES));
            Some(Holder::LogicalId(name.to_owned()))
        }
        ("", id) => violations.keep(input::instance_id("instance_id", id)).map(Holder::Instance),
        _ => violations.keep(invalid("instance_id", "is set together with logical_id; give one of them")),
    };
    let alive_at = violations.take(optional_time("alive_at", request.alive_at));
    let of_limit = |error| InvalidInput { field: "limit".to_owned(), ..error };
    let limit = violations.take(page_size(request.limit).map_err(of_limit));
    violations.into_result()?;
    let holder = holder.ok_or_else(|| Failure::Invalid(Vec::new()))?;
    Ok(Ended { holder, alive_at, limit })
}

/// The conditions of a watch, and the history it resumes.
pub(crate) fn watch(request: &v1::WatchRequest) -> Result<(Filter, Option<Uuid>), Failure> {
    let mut violations = Violations::default();
    let (name, prefix) = (&request.logical_id, &request.logical_id_prefix);
    if !name.is_empty() && !prefix.is_empty() {
        violations.take(invalid::<()>("logical_id_prefix", "is set together with logical_id; give one of them"));
    }
    let filter = filter(&mut violations, name, prefix, &request.statuses, &request.node_id, &request.labels);
    let history = match (request.resume_after, Uuid::try_parse(&request.history_id)) {
        (0, _) => None,
        (_, Ok(history_id)) => Some(history_id),
        (_, Err(_)) => violations.take(invalid(
            "history_id",
            "is not a UUID; with resume_after, give the history_id of the response it was taken from",
        )),
    };
    violations.into_result()?;
    Ok((filter, history))
}

fn filter(
    violations: &mut Violations,
    logical_id: &str,
    prefix: &str,
    statuses: &[i32],
    node_id: &str,
    labels: &HashMap<String, String>,
) -> Filter {
    violations.take(input::plain_text("logical_id", logical_id, LOGICAL_ID_MAX_BYTES));
    violations.take(input::plain_text("logical_id_prefix", prefix, LOGICAL_ID_MAX_BYTES));
    violations.take(input::plain_text("node_id", node_id, NAME_MAX_BYTES));
    let statuses = statuses.iter().filter_map(|status| violations.keep(required_status("statuses", *status))).collect();
    Filter {
        logical_id: logical_id.to_owned(),
        logical_id_prefix: prefix.to_owned(),
        statuses,
        node_id: node_id.to_owned(),
        labels: violations.take(Labels::from_input("labels", labels)),
        ..Filter::default()
    }
}

/// Holds a list or a watch to what its caller may read. Returns whether there may be other logical ids among those that are
/// asked for.
///
/// # Errors
/// None of those that are asked for. Known before anything is looked up.
pub(crate) fn restrict(filter: &mut Filter, caller: &Caller) -> Result<bool, Denied> {
    let (name, prefix) = (filter.logical_id.as_str(), filter.logical_id_prefix.as_str());
    let names = caller.names(Verb::Read);
    let (meets, covers) = match name {
        "" => (names.meets_prefix(prefix), names.covers_prefix(prefix)),
        name => (names.contains(name), names.contains(name)),
    };
    if !meets {
        return Err(caller.denied(Verb::Read, &if name.is_empty() { format!("{prefix}*") } else { name.to_owned() }));
    }
    // Of what is covered nothing needs to be looked up name by name.
    filter.readable = if covers { Names::everything() } else { names };
    Ok(!covers)
}

/// Accepts the names of a batch.
pub(crate) fn names(field: &str, names: &[String]) -> Result<(), Failure> {
    if names.is_empty() || names.len() > NAMES_MAX {
        return Ok(invalid(field, format!("has {} names; give 1 to {NAMES_MAX}", names.len()))?);
    }
    let mut violations = Violations::default();
    for name in names {
        violations.take(input::required_text(field, name, LOGICAL_ID_MAX_BYTES));
    }
    violations.into_result()
}

/// Accepts a choice; unset means the best. `draw` is the number for a random one.
pub(crate) fn choice(choice: Option<v1::ResolveChoice>, draw: u64) -> Result<Choice, Failure> {
    let Some(choice) = choice else { return Ok(Choice::default()) };
    let mut violations = Violations::default();
    let policy = violations.take(policy(choice.policy, choice.key, choice.near_node_id, draw));
    let labels = violations.take(Labels::from_input("choice.labels", &choice.labels));
    let excluded = choice.excluded_instance_ids;
    if excluded.len() > EXCLUDED_MAX {
        let problem = format!("has {} ids; exclude at most {EXCLUDED_MAX}", excluded.len());
        violations.take(invalid::<()>("choice.excluded_instance_ids", problem));
    }
    let excluded = excluded
        .iter()
        .take(EXCLUDED_MAX)
        .filter_map(|id| violations.keep(input::instance_id("choice.excluded_instance_ids", id)))
        .collect();
    violations.into_result()?;
    Ok(Choice { policy, excluded, labels })
}

fn policy(policy: i32, key: String, near_node_id: String, draw: u64) -> Result<Policy, InvalidInput> {
    use v1::ResolvePolicy as Wire;
    let wire = Wire::try_from(policy);
    if !key.is_empty() && wire != Ok(Wire::Rendezvous) {
        return invalid("choice.key", "goes with the policy RENDEZVOUS only; leave it out");
    }
    if !near_node_id.is_empty() && wire != Ok(Wire::Near) {
        return invalid("choice.near_node_id", "goes with the policy NEAR only; leave it out");
    }
    match wire {
        Ok(Wire::Unspecified | Wire::Best) => Ok(Policy::Best),
        Ok(Wire::Random) => Ok(Policy::Random(draw)),
        Ok(Wire::Rendezvous) => {
            input::required_text("choice.key", &key, KEY_MAX_BYTES)?;
            Ok(Policy::Rendezvous(key))
        }
        Ok(Wire::Near) => {
            input::required_text("choice.near_node_id", &near_node_id, NAME_MAX_BYTES)?;
            Ok(Policy::Near(near_node_id))
        }
        Err(_) => invalid("choice.policy", format!("is {policy}; choose BEST, RANDOM, RENDEZVOUS or NEAR")),
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use proptest::{collection::vec, prelude::*};
    use tonic::Status;

    use super::{super::convert, *};

    /// Texts of any kind, often one that means something.
    fn text() -> impl Strategy<Value = String> {
        const KNOWN: &[&str] = &["", "organ", "\0", "\u{9b}", "6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10"];
        prop_oneof![any::<String>(), prop::sample::select(KNOWN).prop_map(str::to_owned)]
    }

    fn labels() -> impl Strategy<Value = HashMap<String, String>> {
        prop::collection::hash_map(text(), text(), 0..6)
    }

    fn token() -> impl Strategy<Value = String> {
        prop_oneof![any::<String>(), vec(any::<u8>(), 0..100).prop_map(|bytes| URL_SAFE_NO_PAD.encode(bytes))]
    }

    prop_compose! {
        fn list_request()(
            logical_id_prefix in text(), statuses in vec(any::<i32>(), 0..20), node_id in text(), labels in labels(),
            page_size in any::<i32>(), page_token in token(), alive_at in prop::option::of((any::<i64>(), any::<i32>())),
        ) -> v1::ListInstancesRequest {
            let alive_at = alive_at.map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos });
            v1::ListInstancesRequest {
                logical_id_prefix, statuses, node_id, labels, page_size, page_token, min_revision: 0, alive_at,
            }
        }
    }

    prop_compose! {
        fn watch_request()(
            logical_id in text(), logical_id_prefix in text(), statuses in vec(-1..6, 0..4), node_id in text(),
            labels in labels(), resume_after in any::<u64>(), history_id in text(),
        ) -> v1::WatchRequest {
            v1::WatchRequest {
                logical_id, logical_id_prefix, statuses, node_id, labels, resume_after, history_id,
            }
        }
    }

    prop_compose! {
        fn any_choice()(
            policy in -1..6, key in text(), near_node_id in text(), excluded_instance_ids in vec(text(), 0..20),
            labels in labels(),
        ) -> v1::ResolveChoice {
            v1::ResolveChoice { policy, key, near_node_id, excluded_instance_ids, labels }
        }
    }

    prop_compose! {
        fn any_registration()(
            texts in [text(), text(), text(), text(), text(), text(), text(), text()], port in any::<u32>(),
            pid in any::<i64>(), ttl in prop::option::of((any::<i64>(), any::<i32>())), labels in labels(),
            initial_status in any::<i32>(),
        ) -> v1::RegisterRequest {
            let [instance_id, logical_id, cluster_epoch, actor_name, serve_route, node_id, ip_address, version] = texts;
            let ttl = ttl.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos });
            v1::RegisterRequest {
                instance_id, logical_id, cluster_epoch, actor_name, serve_route, node_id, ip_address, port, pid, ttl,
                labels, version, initial_status,
            }
        }
    }

    /// What was refused fits into the end of a call.
    fn check<T>(read: Result<T, Failure>) -> Result<(), TestCaseError> {
        if let Err(failure) = read {
            let status = Status::from(failure);
            prop_assert_eq!(status.code(), tonic::Code::InvalidArgument);
            let bytes = status.message().len() + status.details().len();
            prop_assert!(bytes < 6_000, "{} bytes", bytes);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn no_request_of_a_router_panics(
            list_request in list_request(), watch_request in watch_request(), any_choice in any_choice(),
            draw in any::<u64>(), batch in vec(text(), 0..20),
        ) {
            check(list(&list_request))?;
            check(watch(&watch_request))?;
            check(choice(Some(any_choice), draw))?;
            check(names("logical_ids", &batch))?;
        }

        #[test]
        fn no_request_of_an_actor_or_an_operator_panics(
            request in any_registration(), id in text(), lease_id in any::<u64>(), status in any::<i32>(),
            seconds in any::<i64>(), nanos in any::<i32>(),
        ) {
            check(convert::registration(request))?;
            check(convert::set_status(&v1::SetStatusRequest { lease_id, instance_id: id, status, ..Default::default() }))?;
            let duration = Some(prost_types::Duration { seconds, nanos });
            check(convert::operator_duration("duration", duration).map_err(Failure::from))?;
        }
    }

    /// What a request of this kind looks like on the wire, with some of its bytes changed: some still are one.
    fn damaged<M: prost::Message + Default>(request: &M, damage: &[(u16, u8)]) -> Option<M> {
        let mut bytes = request.encode_to_vec();
        for (at, byte) in damage {
            let length = bytes.len().max(1);
            match bytes.get_mut(usize::from(*at) % length) {
                Some(place) => *place = *byte,
                None => bytes.push(*byte),
            }
        }
        M::decode(&*bytes).ok()
    }

    proptest! {
        #[test]
        fn no_bytes_on_the_wire_panic(
            list_request in list_request(), watch_request in watch_request(), any_choice in any_choice(),
            registration in any_registration(), damage in vec(any::<(u16, u8)>(), 0..8),
        ) {
            damaged(&list_request, &damage).map_or(Ok(()), |request| check(list(&request)))?;
            damaged(&watch_request, &damage).map_or(Ok(()), |request| check(watch(&request)))?;
            damaged(&any_choice, &damage).map_or(Ok(()), |request| check(choice(Some(request), 7)))?;
            damaged(&registration, &damage).map_or(Ok(()), |request| check(convert::registration(request)))?;
        }
    }

    #[test]
    fn a_refusal_of_ever_so_many_fields_stays_small() {
        let many = vec![String::new(); NAMES_MAX];
        check(names("logical_ids", &many)).unwrap();
        check(list(&v1::ListInstancesRequest { statuses: vec![i32::MIN; 100_000], ..Default::default() })).unwrap();
    }
}
