//! Values of `musterd-client` as plain Python values, and back. The Python side makes its own types of them.

use std::{collections::BTreeMap, time::Duration};

use musterd_client::{Choice, Error, Lease, LossReason, Lost, NoTarget, Policy, Resolved, State, Status, TargetChange};
use pyo3::{IntoPyObjectExt as _, create_exception, exceptions::PyException, exceptions::PyValueError, prelude::*};
use uuid::Uuid;

use crate::router::Target;

create_exception!(musterd._core, Failure, PyException, "A call failed; the arguments are those of `musterd.Error`.");
create_exception!(musterd._core, Foreign, PyException, "The object was made by the parent of this process.");

/// What became of a call: reason, text, whether to retry, after how many seconds, fields at fault, whether it may have been
/// applied, daemon.
type FailureArguments = (&'static str, String, bool, Option<f64>, Vec<(String, String)>, bool, Option<String>);

/// Seconds that Python gave.
pub(crate) fn seconds(field: &str, seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyValueError::new_err(format!("{field}: {seconds} is no time span; give seconds from 0 on")))
}

/// A status by its word.
pub(crate) fn status(word: &str) -> PyResult<Status> {
    [Status::Starting, Status::Alive, Status::Draining, Status::Dead]
        .into_iter()
        .find(|status| status.as_str() == word)
        .ok_or_else(|| PyValueError::new_err(format!("status: {word:?} is none; give starting, alive or draining")))
}

/// Which instance to choose.
pub(crate) fn choice(
    policy: &str,
    key: Option<String>,
    near: Option<String>,
    labels: BTreeMap<String, String>,
    exclude: Vec<Uuid>,
) -> PyResult<Choice> {
    let policy = match policy {
        "best" => Policy::Best,
        "random" => Policy::Random,
        "rendezvous" => Policy::Rendezvous(key.unwrap_or_default()),
        "near" => Policy::Near(near.unwrap_or_default()),
        _ => {
            let text = format!("policy: {policy:?} is none; give best, random, rendezvous or near");
            return Err(PyValueError::new_err(text));
        }
    };
    let choice = labels.into_iter().fold(Choice::by(policy), |choice, (key, value)| choice.label(key, value));
    Ok(exclude.into_iter().fold(choice, Choice::without))
}

fn failure_arguments(error: &Error) -> FailureArguments {
    let violations = error.violations().iter();
    (
        error.reason().name(),
        error.to_string(),
        error.is_retryable(),
        error.retry_after().map(|after| after.as_secs_f64()),
        violations.map(|one| (one.field().to_owned(), one.description().to_owned())).collect(),
        error.may_be_applied(),
        error.daemon().map(str::to_owned),
    )
}

fn no_target_arguments(none: &NoTarget) -> FailureArguments {
    let reason = match none {
        NoTarget::Refused(error) => return failure_arguments(error),
        NoTarget::NotReady(_) => "NOT_READY",
        NoTarget::Stale { .. } => "STALE",
        _ => "NO_LIVE_INSTANCE",
    };
    (reason, none.to_string(), true, None, Vec::new(), false, None)
}

/// The arguments of an error.
pub(crate) fn failure(py: Python<'_>, error: &Error) -> PyResult<Py<PyAny>> {
    failure_arguments(error).into_py_any(py)
}

/// The arguments of an error of a router.
pub(crate) fn no_target(py: Python<'_>, none: &NoTarget) -> PyResult<Py<PyAny>> {
    no_target_arguments(none).into_py_any(py)
}

/// An error to raise.
pub(crate) fn raise(error: &Error) -> PyErr {
    Failure::new_err(failure_arguments(error))
}

/// An error of a router to raise.
pub(crate) fn raise_no_target(none: &NoTarget) -> PyErr {
    Failure::new_err(no_target_arguments(none))
}

/// A loss: lease id and reason.
pub(crate) fn lost(lost: Lost) -> (u64, &'static str) {
    let reason = match lost.reason {
        LossReason::Deadline => "deadline",
        LossReason::Expired => "expired",
        LossReason::Deregistered => "deregistered",
        LossReason::Operator => "operator",
        LossReason::Replaced => "replaced",
        LossReason::Fenced => "fenced",
        LossReason::Closed => "closed",
        _ => "unknown",
    };
    (lost.lease_id, reason)
}

fn lease(lease: Lease) -> (u64, Uuid, Uuid, u64, f64) {
    (lease.lease_id, lease.instance_id, lease.cluster_epoch, lease.epoch_number, lease.ttl.as_secs_f64())
}

/// A state: its name, and the lease or the loss that belongs to it.
pub(crate) fn state(py: Python<'_>, state: &State) -> PyResult<Py<PyAny>> {
    match *state {
        State::Held(held) => ("held", lease(held)).into_py_any(py),
        State::Doubtful(held) => ("doubtful", lease(held)).into_py_any(py),
        State::Lost(loss) => ("lost", lost(loss)).into_py_any(py),
        State::Ended => ("ended", py.None()).into_py_any(py),
        _ => ("pending", py.None()).into_py_any(py),
    }
}

/// What a call to Resolve returned: the target, and how far it is true.
pub(crate) fn resolved(py: Python<'_>, resolved: Resolved) -> PyResult<Py<PyAny>> {
    let known = (
        resolved.alternatives,
        resolved.cluster_epoch,
        resolved.epoch_number,
        resolved.revision,
        resolved.stale_for.as_secs_f64(),
    );
    (Target::of_call(resolved.instance), known).into_py_any(py)
}

/// A change of the live instances of a name: its kind and the target; `None` at the end.
pub(crate) fn changed(py: Python<'_>, change: Option<TargetChange>) -> PyResult<Py<PyAny>> {
    match change {
        Some(TargetChange::Put(target)) => ("put", Target::picked(target)).into_py_any(py),
        Some(TargetChange::Gone(target)) => ("gone", Target::picked(target)).into_py_any(py),
        _ => Ok(py.None()),
    }
}
