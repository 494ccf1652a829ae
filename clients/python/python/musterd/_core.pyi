"""The native core of musterd. Use the package `musterd`, not this module."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypedDict, final
from uuid import UUID

class Failure(Exception): ...
class Foreign(Exception): ...

class Settings(TypedDict):
    logical_id: str
    instance_id: UUID | None
    cluster_epoch: UUID | None
    actor_name: str
    serve_route: str
    node_id: str
    ip: str | None
    port: int | None
    ttl: float
    status: str
    version: str
    labels: Mapping[str, str]
    on_lost: str
    stall_after: float | None

@final
class Client:
    def __new__(
        cls,
        token: int,
        daemons: Sequence[str],
        ca: str | None,
        cert: str | None,
        key: str | None,
        token_file: str | None,
        timeout: float,
        application: str,
    ) -> Client: ...
    def register(self, token: int, settings: Settings) -> Registration: ...
    def resolve(
        self,
        token: int,
        logical_id: str,
        policy: str,
        key: str | None,
        near: str | None,
        labels: Mapping[str, str],
        exclude: Sequence[UUID],
    ) -> None: ...
    def router(self, max_stale: float, exclude_for: float, idle: float) -> Router: ...
    def daemon(self) -> str: ...
    def token(self) -> int: ...

@final
class Registration:
    def require(self, remaining: float) -> int: ...
    def lost(self) -> tuple[int, str] | None: ...
    def state(self) -> tuple[str, object]: ...
    def remaining(self) -> float: ...
    def trouble(self) -> Sequence[object] | None: ...
    def instance_id(self) -> UUID: ...
    def source(self) -> str | None: ...
    def set_status(self, token: int, status: str, reason: str) -> None: ...
    def update(
        self, token: int, labels: Mapping[str, str] | None, version: str | None, actor_name: str | None
    ) -> None: ...
    def leave(self, token: int, drain: float) -> None: ...
    def tick(self) -> None: ...

@final
class Router:
    def pick(
        self,
        logical_id: str,
        policy: str,
        key: str | None,
        near: str | None,
        labels: Mapping[str, str],
        exclude: Sequence[UUID],
    ) -> Target: ...
    def pick_best(self, logical_id: str) -> Target: ...
    def watch(self, logical_id: str) -> Changes: ...
    def ready(self, token: int, logical_id: str) -> None: ...
    def targets(self, logical_id: str) -> list[Target]: ...
    def stale_for(self, logical_id: str) -> float | None: ...

@final
class Changes:
    def next(self, token: int) -> None: ...
    def close(self) -> None: ...

@final
class Target:
    """A live instance to call."""

    @property
    def ip(self) -> str:
        """The IP address; empty if it is not known."""
    @property
    def port(self) -> int:
        """The port; 0 if it is not known."""
    @property
    def address(self) -> str:
        """`host:port`, with an IPv6 address in brackets."""
    @property
    def url(self) -> str:
        """`http://host:port`."""
    @property
    def instance_id(self) -> UUID:
        """The instance id."""
    @property
    def logical_id(self) -> str:
        """The name under which it registered."""
    @property
    def lease_id(self) -> int:
        """Its lease, a fencing token."""
    @property
    def suspect(self) -> bool:
        """Whether it has missed two beats, or its stream of beats broke."""
    @property
    def node_id(self) -> str:
        """The node on which it runs; empty if it is not known."""
    @property
    def actor_name(self) -> str:
        """Name of the actor; empty if it has none."""
    @property
    def serve_route(self) -> str:
        """Deployment name or base route; empty if it has none."""
    @property
    def version(self) -> str:
        """Version of its software; empty if it is not known."""
    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
    @property
    def status_reason(self) -> str:
        """Why it has its status, in the words of what set it; empty if no reason was given."""
    @property
    def status_since(self) -> datetime | None:
        """Since when it has this status and reason, in UTC by the database clock."""
    @property
    def headers(self) -> dict[str, str]:
        """The lease for the receiver of a call: `{"musterd-lease": "4711"}`."""
    def failed(self, for_: float | None = None) -> None:
        """A call to it has failed: its router leaves it out for so many seconds, by default for `exclude_for`."""

def fileno() -> int: ...
def drain() -> list[tuple[int, str, object]]: ...
def before_fork() -> None: ...
def after_fork_in_parent() -> None: ...
def after_fork_in_child() -> None: ...
