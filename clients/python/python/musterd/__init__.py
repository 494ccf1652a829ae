"""musterd: registers actors, keeps their leases, and finds live instances.

    import musterd
    with musterd.register("cognitive_organ_1", port=8000) as registration:
        serve(registration)
"""

import atexit

from . import _process
from ._core import Target
from ._events import EventStream
from ._register import register, registered
from .changes import Change, Changes
from .errors import (
    EpochFenced,
    Error,
    ForeignProcess,
    InstanceIdTaken,
    InvalidField,
    LeaseLost,
    NoLiveInstance,
    PermissionDenied,
    Stale,
    Unauthenticated,
    Unavailable,
    UnknownLogicalId,
    Violation,
)
from .registration import Registration
from .router import Choice, Policy, Resolved, Router, aresolve, resolve
from .states import (
    DaemonChanged,
    Doubtful,
    Ended,
    Event,
    Held,
    Lease,
    Lost,
    Reason,
    Rejoined,
    Resumed,
    Stalled,
    State,
    Status,
    StatusChanged,
)

__version__ = _process.VERSION

__all__ = [
    "Change",
    "Changes",
    "Choice",
    "DaemonChanged",
    "Doubtful",
    "Ended",
    "EpochFenced",
    "Error",
    "Event",
    "EventStream",
    "ForeignProcess",
    "Held",
    "InstanceIdTaken",
    "InvalidField",
    "Lease",
    "LeaseLost",
    "Lost",
    "NoLiveInstance",
    "PermissionDenied",
    "Policy",
    "Reason",
    "Registration",
    "Rejoined",
    "Resolved",
    "Resumed",
    "Router",
    "Stale",
    "Stalled",
    "State",
    "Status",
    "StatusChanged",
    "Target",
    "Unauthenticated",
    "Unavailable",
    "UnknownLogicalId",
    "Violation",
    "aresolve",
    "register",
    "registered",
    "resolve",
]

atexit.register(_process.close_all)
