//! Fields of the protocol in the words of the command line: a daemon that refuses `duration` means `--for`.
//!
//! Limits are the daemon's to know, so it is the daemon that finds a bad value; a user knows it by its flag.

use musterd_client::{Error, Violation};

/// The fields and what is wrong with each, on one line.
pub(crate) fn joined(violations: &[Violation], colon: &str) -> String {
    let each = violations.iter().map(|one| format!("{}{colon} {}", one.field(), one.description()));
    each.collect::<Vec<_>>().join("; ")
}

/// The same refusal with each field named by its flag; `of_run` for those of `run`.
pub(crate) fn in_flags(error: Error, of_run: bool) -> Error {
    if error.violations().is_empty() {
        return error;
    }
    let is_list = error.message() == joined(error.violations(), ":");
    let add = |named: Error, one: &Violation| named.with_violation(flag(one.field(), of_run), one.description());
    let named = |message: &str| error.violations().iter().fold(Error::new(error.kind(), error.reason(), message), add);
    let plain = named(error.message());
    if is_list { named(&joined(plain.violations(), "")) } else { plain }
}

/// The flag or argument that a field of the protocol is given by; the field itself where there is none.
pub(crate) fn flag(field: &str, of_run: bool) -> String {
    let path = field.strip_prefix("choice.").unwrap_or(field);
    let (name, rest) = path.find(['[', '.']).map_or((path, ""), |at| path.split_at(at));
    let flag = match (name, of_run) {
        ("logical_id", true) => "--logical-id",
        ("logical_id" | "logical_ids", _) => "NAME",
        ("instance_id", true) => "--instance-id",
        ("instance_id", false) => "INSTANCE_ID",
        ("node_id", true) => "--node-id",
        ("node_id", false) => "--node",
        ("actor_name", _) => "--actor-name",
        ("serve_route", _) => "--serve-route",
        ("ip_address", _) => "--ip",
        ("port", _) => "--port",
        ("ttl", _) => "--ttl",
        ("labels", _) => "--label",
        ("version", _) => "--version",
        ("cluster_epoch", _) => "--epoch",
        ("logical_id_prefix", _) => "--prefix",
        ("key", _) => "--key",
        ("near_node_id", _) => "--near",
        ("policy", _) => "--policy",
        ("excluded_instance_ids", _) => "--exclude",
        ("duration", _) => "--for",
        ("reason", _) => "--reason",
        ("expected_epoch", _) => "--expect",
        ("new_epoch", _) => "--new",
        ("alive_at", _) => "--alive-at",
        _ => return field.to_owned(),
    };
    let rest = rest.trim_matches(['[', ']', '.']);
    if rest.is_empty() { flag.to_owned() } else { format!("{flag} {rest}") }
}

#[cfg(test)]
mod tests {
    use musterd_client::{Kind, Reason};

    use super::*;
    use crate::command::exit::{self, USAGE};

    #[test]
    fn refused_flag_is_named_and_reported_once() {
        let refused = |message: &str, violations: &[(&str, &str)]| {
            let error = Error::new(Kind::Invalid, Reason::InvalidField, message);
            violations.iter().fold(error, |error, (field, problem)| error.with_violation(*field, *problem))
        };
        let one = refused("duration: is too long", &[("duration", "is too long")]);
        let one = exit::Error::from(one).in_flags(false);
        assert_eq!(one.lines(), ["--for is too long (INVALID_FIELD)"]);
        assert_eq!((one.exit_code(), one.reason()), (USAGE, Some("INVALID_FIELD")));
        let two = [("labels[zone]", "is long"), ("node_id", "is longer")];
        let two = exit::Error::from(refused("labels[zone]: is long; node_id: is longer", &two)).in_flags(true);
        assert_eq!(two.lines(), ["--label zone is long; --node-id is longer (INVALID_FIELD)"]);
    }
}
