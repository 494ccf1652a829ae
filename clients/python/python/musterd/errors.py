"""What can go wrong, in a form that a program can act on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .states import Lost


class Violation(NamedTuple):
    """A field that is not accepted."""

    field: str
    """The field, as it is named in the protocol."""
    description: str
    """What is wrong with it, the limit and the fix."""


class Error(Exception):
    """A call failed. Each subclass asks for another reaction; `reason` is of a closed list."""

    def __init__(
        self,
        reason: str,
        message: str,
        retryable: bool = False,
        retry_after: float | None = None,
        violations: Sequence[tuple[str, str]] = (),
        may_be_applied: bool = False,
        daemon: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        """Why, as a name of the protocol (`NO_LIVE_INSTANCE`), or one of this package (`STALE`)."""
        self.retryable = retryable
        """Whether the same call may succeed later. Within its timeout the client has tried that already."""
        self.retry_after = retry_after
        """After how many seconds a retry makes sense, if the daemon told so."""
        self.violations: list[Violation] = [Violation(*violation) for violation in violations]
        """The fields at fault, for `INVALID_FIELD`."""
        self.may_be_applied = may_be_applied
        """Whether a change may have been applied although the call failed. Repeating it is safe."""
        self.daemon = daemon
        """The daemon that answered so; all of them, separated by commas, if none could be reached."""

    def __reduce__(self) -> tuple[type[Error], tuple[object, ...]]:
        violations = [tuple(violation) for violation in self.violations]
        arguments = (self.reason, str(self), self.retryable, self.retry_after, violations, self.may_be_applied)
        return type(self), (*arguments, self.daemon)


class Unavailable(Error):
    """No daemon could take the call in time. Try again later; what is cached stays usable."""


class InvalidField(Error, ValueError):
    """An argument is not accepted; `violations` names the fields. Change the call."""


class NoLiveInstance(Error, LookupError):
    """The name is known, and none of its instances is alive and matches. Wait, or fall back."""


class UnknownLogicalId(Error, LookupError):
    """No instance of this name is on record. Check the name, or wait for its first instance."""


class Stale(Error):
    """What the router knows was not confirmed for longer than `max_stale`. Do not guess: refuse the work."""


class EpochFenced(Error):
    """The epoch that was named has passed. Do not go on in the name of that epoch."""


class InstanceIdTaken(Error):
    """A live instance of another owner has this instance id. Take a new one, or leave it out."""


class Unauthenticated(Error):
    """The daemon does not know the caller: no credential, or one that it refuses. Give or renew the credential."""


class PermissionDenied(Error):
    """The caller has no right to this. Ask the operator of the registry for a rule."""


class ForeignProcess(Error):
    """The registration belongs to the parent of this process. Register in this process."""


class LeaseLost(Error):
    """The lease is not held at this moment. Stop what the lease allows; `lost` tells which lease, and why."""

    def __init__(self, lost: Lost | None, message: str) -> None:
        super().__init__("LEASE_LOST", message)
        self.lost = lost
        """The loss; `None` if there was no lease yet."""

    def __reduce__(self) -> tuple[type[Error], tuple[object, ...]]:
        return type(self), (self.lost, str(self))


_BY_REASON: dict[str, type[Error]] = {
    "INVALID_FIELD": InvalidField,
    "NO_LIVE_INSTANCE": NoLiveInstance,
    "UNKNOWN_LOGICAL_ID": UnknownLogicalId,
    "STALE": Stale,
    "EPOCH_FENCED": EpochFenced,
    "INSTANCE_ID_TAKEN": InstanceIdTaken,
    "UNAUTHENTICATED": Unauthenticated,
    "CREDENTIAL_EXPIRED": Unauthenticated,
    "TWO_IDENTITIES": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
}


def from_native(failure: Sequence[object]) -> Error:
    """The error that the arguments of a native failure describe."""
    reason, retryable = str(failure[0]), bool(failure[2])
    kind = _BY_REASON.get(reason, Unavailable if retryable else Error)
    return kind(*failure)  # type: ignore[arg-type]


def foreign(what: str) -> ForeignProcess:
    """The error of an object that the parent of this process has made."""
    return ForeignProcess("FOREIGN", f"{what} belongs to the parent of this process; register in this process instead")


def invalid(field: str, description: str = "is not accepted") -> InvalidField:
    """The error of an argument that this package does not accept."""
    return InvalidField("INVALID_FIELD", f"{field}: {description}", violations=[(field, description)])
