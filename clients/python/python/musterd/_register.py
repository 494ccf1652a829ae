"""`register()`: the one call of an actor."""

from __future__ import annotations

import functools
import inspect
import socket
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Union, cast

from . import _process, _ticks
from .errors import InvalidField, invalid
from .registration import Registration
from .states import Lost, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Concatenate
    from uuid import UUID

    from . import _core

    OnLost = Union[Literal["rejoin", "stop", "exit"], Callable[[Lost], None]]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def register(
    logical_id: str,
    *,
    ip: str | None = None,
    port: int | None = None,
    ttl: float = 15.0,
    status: Status = Status.ALIVE,
    node_id: str | None = None,
    actor_name: str = "",
    serve_route: str = "",
    version: str = "",
    labels: Mapping[str, str] | None = None,
    instance_id: UUID | None = None,
    cluster_epoch: UUID | None = None,
    daemons: Sequence[str] | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    token_file: str | None = None,
    wait: bool = True,
    timeout: float = 10.0,
    on_lost: OnLost = "rejoin",
    stall_after: float | None = None,
    tick: _ticks.Tick = "auto",
) -> Registration:
    """Registers an instance, and keeps its lease until the registration is closed or the process ends.

    It returns when the lease is held, and raises if that takes longer than `timeout`. With `wait=False` it returns at
    once, and registers as soon as a daemon can be reached. In a running event loop it never waits: use
    `await musterd.register(...)` or `async with musterd.register(...)`.

    ip, port: where the instance can be reached. With a port and without an IP address: the address of this machine in its
        connection to the daemon.
    ttl: how many seconds the lease lives after each beat, 2 to 300.
    status: ALIVE, or STARTING until `ready()`.
    node_id: the node; by default the host name.
    daemons: addresses, each `host:port`, `host` or `https://host:port`; by default those of MUSTERD_ADDR.
    ca, cert, key: PEM files for https; by default those of MUSTERD_CA, MUSTERD_CERT and MUSTERD_CERT_KEY.
    token_file: a file with the token that tells a daemon what this process is, read again when it changes; by default that
        of MUSTERD_TOKEN_FILE, or the token in MUSTERD_TOKEN.
    on_lost: after a loss register again ("rejoin"); stay without a lease ("stop"); end the process by SIGTERM, and by
        SIGKILL after a third of the TTL, also while the GIL is held ("exit"); or register again and call this function on
        a thread of its own.
    stall_after: set the instance DRAINING when Python has made no progress for so many seconds, and ALIVE when it does
        again. Progress is that the event loop of the caller runs, or without one any Python code; with tick="manual", a
        call of `tick()`.
    """
    _check(port, on_lost)
    process = _process.current()
    settings: _core.Settings = {
        "logical_id": logical_id,
        "instance_id": instance_id,
        "cluster_epoch": cluster_epoch,
        "actor_name": actor_name,
        "serve_route": serve_route,
        "node_id": socket.gethostname() if node_id is None else node_id,
        "ip": ip,
        "port": port,
        "ttl": ttl,
        "status": Status(status).value,
        "version": version,
        "labels": dict(labels or {}),
        "on_lost": "rejoin" if callable(on_lost) else on_lost,
        "stall_after": stall_after,
    }
    client = process.client(daemons, ca, cert, key, token_file)
    try:
        registration = Registration(client, settings, timeout, wait, on_lost if callable(on_lost) else None)
    except (ValueError, OverflowError) as error:
        if isinstance(error, InvalidField):
            raise
        raise invalid(*str(error).split(": ", 1)) from None
    if stall_after is not None:
        _ticks.start(registration, stall_after, tick)
    if wait and _ticks.running_loop() is None:
        registration.wait_held()
    return registration


def _check(port: int | None, on_lost: OnLost) -> None:
    if port is not None and not 1 <= port <= 65535:
        raise invalid("port", f"is {port}; give 1 to 65535, or leave it out")
    if not callable(on_lost) and on_lost not in ("rejoin", "stop", "exit"):
        raise invalid("on_lost", f"{on_lost!r} is none; give 'rejoin', 'stop', 'exit' or a function")


def registered(
    logical_id: str, **settings: Any
) -> Callable[[Callable[Concatenate[Registration, Parameters], Result]], Callable[Parameters, Result]]:
    """Decorates a function, `def` or `async def`, that is registered while it runs. It gets the registration first.

    The settings are those of `register()`.
    """

    def decorate(
        function: Callable[Concatenate[Registration, Parameters], Result],
    ) -> Callable[Parameters, Result]:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def in_loop(*args: Any, **kwargs: Any) -> Any:
                async with register(logical_id, **settings) as registration:
                    return await function(registration, *args, **kwargs)

            return cast("Callable[Parameters, Result]", in_loop)

        @functools.wraps(function)
        def in_thread(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            with register(logical_id, **settings) as registration:
                return function(registration, *args, **kwargs)

        return in_thread

    return decorate
