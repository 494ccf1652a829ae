//! Fields of the protocol in the words of the command line: a daemon that refuses `duration` means `--for`.
//!
//! Limits are the daemon's to know, so it is the daemon that finds a bad value; a user knows it by its flag.

use tonic::Status;
use tonic_types::{BadRequest, FieldViolation, StatusExt as _};

/// The fields and what is wrong with each, on one line.
pub(super) fn joined(bad: &BadRequest, colon: &str) -> String {
    let each = bad.field_violations.iter().map(|one| format!("{}{colon} {}", one.field, one.description));
    each.collect::<Vec<_>>().join("; ")
}

/// The same refusal with each field named by its flag; `of_run` for those of `run`.
pub(super) fn in_flags(status: Status, of_run: bool) -> Status {
    let Some(bad) = status.get_details_bad_request() else { return status };
    let is_list = status.message() == joined(&bad, ":");
    let named = bad.field_violations.iter().map(|one| FieldViolation::new(flag(&one.field, of_run), &one.description));
    let named = BadRequest::new(named.collect::<Vec<_>>());
    let message = if is_list { joined(&named, "") } else { status.message().to_owned() };
    let mut details = status.get_error_details();
    details.set_bad_request(named.field_violations);
    Status::with_error_details(status.code(), message, details)
}

/// The flag or argument that a field of the protocol is given by; the field itself where there is none.
fn flag(field: &str, of_run: bool) -> String {
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
    use tonic::Code;
    use tonic_types::ErrorDetails;

    use super::*;
    use crate::cli::exit::{ERROR_DOMAIN, Error, USAGE};

    #[test]
    fn a_refused_flag_is_named_and_told_once() {
        let refused = |message: &str, violations| {
            let mut details = ErrorDetails::with_error_info("INVALID_FIELD", ERROR_DOMAIN, []);
            details.set_bad_request(violations);
            Error::from(Status::with_error_details(Code::InvalidArgument, message, details))
        };
        let one =
            refused("duration: is too long", vec![FieldViolation::new("duration", "is too long")]).in_flags(false);
        assert_eq!(one.lines(), ["--for is too long (INVALID_FIELD)"]);
        assert_eq!((one.exit_code(), one.reason().as_deref()), (USAGE, Some("INVALID_FIELD")));
        let two = vec![FieldViolation::new("labels[zone]", "is long"), FieldViolation::new("node_id", "is longer")];
        let two = refused("labels[zone]: is long; node_id: is longer", two).in_flags(true);
        assert_eq!(two.lines(), ["--label zone is long; --node-id is longer (INVALID_FIELD)"]);
    }

    #[test]
    fn each_flag_that_a_field_stands_for_exists() {
        use clap::CommandFactory as _;
        let mut command = crate::cli::Cli::command();
        command.build();
        let run = command.find_subcommand("run").expect("run").clone();
        let words = |command: &clap::Command| -> Vec<String> {
            let own = command.get_arguments().flat_map(|arg| {
                let name = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
                [arg.get_long().map(|long| format!("--{long}")), name]
            });
            own.flatten().collect()
        };
        let nested = |command: &clap::Command| command.get_subcommands().cloned().collect::<Vec<_>>();
        let all: Vec<_> = nested(&command).iter().flat_map(|one| [vec![one.clone()], nested(one)].concat()).collect();
        let others: Vec<String> = all.iter().filter(|one| one.get_name() != "run").flat_map(words).collect();
        for field in ["logical_id", "instance_id", "node_id", "actor_name", "ip_address", "ttl", "labels", "version"] {
            assert!(words(&run).contains(&flag(field, true)), "{field}");
        }
        for field in [
            "logical_id",
            "instance_id",
            "node_id",
            "logical_id_prefix",
            "choice.key",
            "choice.near_node_id",
            "duration",
            "reason",
            "expected_epoch",
            "new_epoch",
            "alive_at",
            "choice.excluded_instance_ids",
            "choice.policy",
        ] {
            assert!(others.contains(&flag(field, false)), "{field}: {}", flag(field, false));
        }
    }
}
