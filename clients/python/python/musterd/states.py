"""What a registration is and becomes: status, state, lease, loss, events."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from uuid import UUID


class Status(str, Enum):
    """Status of an instance in the registry. Only ALIVE ones are resolved."""

    STARTING = "starting"
    ALIVE = "alive"
    DRAINING = "draining"
    DEAD = "dead"


class State(str, Enum):
    """Where a registration stands, by the clock of this process."""

    PENDING = "pending"
    """Not registered yet."""
    HELD = "held"
    """The lease is held."""
    DOUBTFUL = "doubtful"
    """The lease is held, but no beat was acknowledged for two thirds of its TTL."""
    LOST = "lost"
    """The lease is lost. A registration that rejoins goes on to HELD."""
    ENDED = "ended"
    """Closed, refused, or lost for good."""
    FOREIGN = "foreign"
    """It belongs to the parent of this process."""


class Reason(str, Enum):
    """Why a lease was lost."""

    DEADLINE = "deadline"
    """By the clock of this process: no beat was acknowledged for the TTL."""
    EXPIRED = "expired"
    """The registry says that it expired, or that it has ended without a record of the reason."""
    DEREGISTERED = "deregistered"
    """Another caller deregistered it."""
    OPERATOR = "operator"
    """An operator declared the instance dead."""
    REPLACED = "replaced"
    """Another process registered under the same instance id."""
    FENCED = "fenced"
    """The epoch was rotated."""
    UNKNOWN = "unknown"
    """The registry does not know the lease."""
    CLOSED = "closed"
    """The registration was closed."""


@dataclass(frozen=True)
class Lease:
    """A lease."""

    lease_id: int
    """Lease, generation and fencing token in one number."""
    instance_id: UUID
    """The instance that holds it."""
    cluster_epoch: UUID
    """The epoch in which it was granted."""
    epoch_number: int
    """Number of that epoch."""
    ttl: float
    """How many seconds it lives after each beat."""


@dataclass(frozen=True)
class Held:
    """The first lease is held, or a doubtful one is again."""

    lease: Lease


@dataclass(frozen=True)
class Doubtful:
    """No beat was acknowledged for two thirds of the TTL."""

    lease: Lease


@dataclass(frozen=True)
class Lost:
    """The lease is lost. At most once for each lease, and before a `Rejoined`."""

    reason: Reason
    lease_id: int


@dataclass(frozen=True)
class Rejoined:
    """A new lease follows one that was lost."""

    lease: Lease


@dataclass(frozen=True)
class Stalled:
    """Python makes no progress for `stall_after`; the instance is DRAINING."""


@dataclass(frozen=True)
class Resumed:
    """Python makes progress again; the instance is ALIVE."""


@dataclass(frozen=True)
class StatusChanged:
    """`set_status()`, `ready()` or `drain()` has changed the status."""

    status: Status
    reason: str = ""


@dataclass(frozen=True)
class DaemonChanged:
    """Another daemon takes the beats; the lease stays."""

    daemon: str


@dataclass(frozen=True)
class Ended:
    """Nothing follows."""


Event = Union[Held, Doubtful, Lost, Rejoined, Stalled, Resumed, StatusChanged, DaemonChanged, Ended]
