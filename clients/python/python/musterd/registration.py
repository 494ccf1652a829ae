"""A registration: one lease that is kept, and what becomes of it."""

from __future__ import annotations

import os
import time
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, Any

from . import _core, _events, _process
from ._kept import Kept
from .errors import Error, LeaseLost, Unavailable, foreign
from .states import Lease, Lost, Reason, State, Status

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from types import TracebackType
    from uuid import UUID

CALL_TIMEOUT = 5.0


class Registration(Kept):
    """A lease that is kept by native threads, until `close()` or the end of the process.

    Thread-safe. It belongs to the process that made it: in a forked child its state is FOREIGN, and closing it there
    changes nothing. `with` and `async with` close it; `await` waits until the lease is held.
    """

    __slots__ = ()

    # ---- What it is ----

    @property
    def instance_id(self) -> UUID:
        """The instance id: another one after a loss to a process that has taken it."""
        return self._mine().instance_id()

    @property
    def logical_id(self) -> str:
        """The name under which it is registered."""
        return self._logical_id

    @property
    def state(self) -> State:
        """Where it stands at this moment, by the clock of this process."""
        if self._pid != os.getpid():
            return State.FOREIGN
        return State(self._native.state()[0])

    @property
    def status(self) -> Status:
        """The status that the application wants: what `set_status()`, `ready()` or `drain()` set last."""
        return self._status

    @property
    def lease(self) -> Lease | None:
        """The lease that is held at this moment."""
        _, value = self._mine().state()
        return Lease(*value) if isinstance(value, tuple) and len(value) == 5 else None

    @property
    def lease_id(self) -> int | None:
        """The lease id, a fencing token, if the lease is held at this moment. `require()` raises instead."""
        return self._mine().require(0.0) or None

    @property
    def remaining(self) -> float:
        """The seconds that are left of the lease; 0 if none is held."""
        return self._mine().remaining()

    def require(self, remaining: float = 0.0) -> int:
        """The fencing token, if at least so many seconds are left of the lease at this moment.

        Raises `LeaseLost` from the moment on at which the TTL has passed since the last acknowledged beat was sent. It
        calls no daemon and waits for nothing.
        """
        try:
            held = self._native.require(remaining)
        except _core.Foreign:
            raise LeaseLost(None, str(foreign("the lease"))) from None
        if held:
            return held
        lost = self._native.lost()
        if lost is None:
            raise LeaseLost(None, f"less than {remaining} s are left of the lease; wait for its next beat")
        if lost[0] == 0:
            raise LeaseLost(None, f"{self._logical_id} has no lease yet; wait until it is registered")
        loss = Lost(Reason(lost[1]), lost[0])
        raise LeaseLost(loss, f"lease {loss.lease_id} is lost ({loss.reason.value}); stop what it allowed")

    # ---- Waiting ----

    def wait_held(self, timeout: float | None = None) -> Registration:
        """Waits until the first lease is held. `register()` does so already, unless it was told not to wait.

        After the timeout a registration that was begun with `wait=False` goes on in the background.
        """
        self._mine()
        limit = self._timeout if timeout is None else timeout
        with self._process.changed:
            settled = self._process.changed.wait_for(self._is_settled, limit)
        if not settled:
            raise self._late(limit)
        if self._failure is not None:
            raise self._failure
        return self

    def __await__(self) -> Generator[Any, None, Registration]:
        return self._await_held().__await__()

    async def _await_held(self) -> Registration:
        import asyncio

        until = time.monotonic() + self._timeout
        async with self.events() as events:
            while not self._is_settled():
                try:
                    await asyncio.wait_for(anext(events, None), until - time.monotonic())
                except asyncio.TimeoutError:
                    raise self._late(self._timeout) from None
        if self._failure is not None:
            raise self._failure
        return self

    def wait_lost(self, timeout: float | None = None) -> Lost | None:
        """Waits for the next loss; `None` after the timeout, or when the registration ends without one."""
        until = None if timeout is None else time.monotonic() + timeout
        with self.events() as events:
            while (event := events.get(None if until is None else until - time.monotonic())) is not None:
                if isinstance(event, Lost):
                    return event
        return None

    async def lost(self) -> Lost | None:
        """Waits for the next loss; `None` when the registration ends without one."""
        async with self.events() as events:
            async for event in events:
                if isinstance(event, Lost):
                    return event
        return None

    def events(self) -> _events.EventStream:
        """All that happens from now on, for `for` and `async for`; it ends with the registration."""
        self._mine()
        with self._process.lock:
            if self._streams is None:
                self._streams = _events.Streams()
            streams = self._streams
        stream = streams.open()
        if self._is_ended or self.state is State.ENDED:
            streams.end()
        return stream

    # ---- Changing ----

    def set_status(self, status: Status, *, reason: str = "", timeout: float = CALL_TIMEOUT) -> None:
        """Changes the status. A registration after a loss takes it over.

        reason: why, for operators and routers, at most 256 bytes. A registration after a loss does not repeat it. With the
            present status, the registry takes another reason at most every 10 s.
        """
        future = self._set_status(status, reason)
        try:
            future.result(timeout)
        except FutureTimeout:
            raise Unavailable("UNAVAILABLE", f"the status was not changed within {timeout} s", True) from None

    async def aset_status(self, status: Status, *, reason: str = "") -> None:
        """As `set_status`, without blocking the loop."""
        import asyncio

        await asyncio.wrap_future(self._set_status(status, reason))

    def update(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        version: str | None = None,
        actor_name: str | None = None,
        timeout: float = CALL_TIMEOUT,
    ) -> None:
        """Changes attributes of the instance, without a gap in its lease; `labels` take the place of all others.

        What is not given stays as it is. A registration after a loss takes the changes over, also those that no daemon took
        in time.
        """
        try:
            self._update(labels, version, actor_name).result(timeout)
        except FutureTimeout:
            raise Unavailable("UNAVAILABLE", f"the attributes were not changed within {timeout} s", True) from None

    async def aupdate(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        version: str | None = None,
        actor_name: str | None = None,
    ) -> None:
        """As `update`, without blocking the loop."""
        import asyncio

        await asyncio.wrap_future(self._update(labels, version, actor_name))

    def ready(self, reason: str = "") -> None:
        """Sets the status ALIVE: routers resolve it."""
        self.set_status(Status.ALIVE, reason=reason)

    def drain(self, reason: str = "") -> None:
        """Sets the status DRAINING: routers no longer resolve it, the lease stays."""
        self.set_status(Status.DRAINING, reason=reason)

    def tick(self) -> None:
        """The application has made progress: for `stall_after` with `tick="manual"`."""
        if self._pid == os.getpid():
            self._native.tick()

    def drain_on(self, *signals: int, grace: float = 10.0) -> None:
        """On each of these signals: drain, go on for `grace` seconds, then do what the signal did before.

        Call it on the main thread, after frameworks have installed their handlers: the handler that was there is called
        after the grace, and the lease is kept until the process ends. Without such a handler the lease is given back
        before the signal ends the process. A second signal ends the grace at once.
        """
        from . import _signals

        _signals.drain_on(self, signals, grace)

    def close(self, *, drain: float = 0.0) -> None:
        """Leaves: drains for so many seconds, then gives the lease back. Idempotent; does nothing in a forked child.

        If no daemon takes the lease back, it ends by itself after its TTL.
        """
        if self._pid == os.getpid():
            # The native core takes at most 5 s for the status and 2 s to give the lease back.
            try:
                self._leave(drain).result(drain + 8.0)
            except (Error, FutureTimeout) as error:
                _process.log.info("the lease of %s was not given back: %s", self._logical_id, error)

    async def aclose(self, *, drain: float = 0.0) -> None:
        """As `close`, without blocking the loop."""
        import asyncio

        if self._pid == os.getpid():
            try:
                await asyncio.wrap_future(self._leave(drain))
            except Error as error:
                _process.log.info("the lease of %s was not given back: %s", self._logical_id, error)

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Registration:
        return await self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a Registration belongs to its process; register in the process that receives this instead")

    def __repr__(self) -> str:
        return f"<Registration {self._logical_id} {self.state.value}>"
