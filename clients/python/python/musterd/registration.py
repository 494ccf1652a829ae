"""A registration: one lease that is kept, and what becomes of it."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, Any

from . import _core, _events, _process
from .errors import Error, LeaseLost, Unavailable, foreign, from_native
from .states import Doubtful, Ended, Held, Lease, Lost, Reason, Rejoined, Resumed, Stalled, State, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType
    from uuid import UUID

    from .states import Event

CALL_TIMEOUT = 5.0


class Registration:
    """A lease that is kept by native threads, until `close()` or the end of the process.

    Thread-safe. It belongs to the process that made it: in a forked child its state is FOREIGN, and closing it there
    changes nothing. `with` and `async with` close it; `await` waits until the lease is held.
    """

    def __init__(
        self,
        client: _core.Client,
        settings: _core.Settings,
        timeout: float,
        waits: bool,
        on_lost: Callable[[Lost], None] | None,
    ) -> None:
        process = _process.current()
        self._pid, self._process, self._timeout, self._on_lost = os.getpid(), process, timeout, on_lost
        # Whether it is given up when the first lease is not granted in time.
        self._waits = waits
        self._logical_id, self._lease = settings["logical_id"], None
        self._held: Future[None] = Future()
        self._last_lost: Lost | None = None
        self._closing: Future[None] | None = None
        self._streams = _events.Streams()
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._token = process.token()
        # Kept alive by the process: a registration that the application does not keep is still registered.
        process.registrations[self._token] = self
        try:
            # Its events wait for this lock.
            with self._lock:
                self._native = client.register(self._token, settings)
        except BaseException as failure:
            del process.registrations[self._token]
            if isinstance(failure, _core.Failure):
                raise from_native(failure.args) from None
            raise

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

    @property
    def trouble(self) -> Error | None:
        """Why the registry cannot be reached or refuses the registration; `None` once the lease is held and renewed."""
        trouble = self._mine().trouble()
        return None if trouble is None else from_native(trouble)

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
        try:
            self._held.result(self._timeout if timeout is None else timeout)
        except FutureTimeout:
            raise self._late(self._timeout if timeout is None else timeout) from None
        return self

    def __await__(self) -> Generator[Any, None, Registration]:
        return self._await_held().__await__()

    async def _await_held(self) -> Registration:
        import asyncio

        self._mine()
        try:
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._held)), self._timeout)
        except asyncio.TimeoutError:
            raise self._late(self._timeout) from None
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
        stream = self._streams.open()
        if self.state is State.ENDED:
            self._streams.end()
        return stream

    # ---- Changing ----

    def set_status(self, status: Status, *, timeout: float = CALL_TIMEOUT) -> None:
        """Changes the status. A registration after a loss takes it over."""
        future = self._set_status(status)
        try:
            future.result(timeout)
        except FutureTimeout:
            raise Unavailable("UNAVAILABLE", f"the status was not changed within {timeout} s", True) from None

    async def aset_status(self, status: Status) -> None:
        """As `set_status`, without blocking the loop."""
        import asyncio

        await asyncio.wrap_future(self._set_status(status))

    def ready(self) -> None:
        """Sets the status ALIVE: routers resolve it."""
        self.set_status(Status.ALIVE)

    def drain(self) -> None:
        """Sets the status DRAINING: routers no longer resolve it, the lease stays."""
        self.set_status(Status.DRAINING)

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

    # ---- Inside ----

    def _mine(self) -> _core.Registration:
        if self._pid != os.getpid():
            raise foreign(f"the registration of {self._logical_id}")
        return self._native

    def _set_status(self, status: Status) -> Future[None]:
        native, word = self._mine(), Status(status).value
        try:
            return self._process.call(lambda token: native.set_status(token, word))
        except ValueError as error:
            raise Error("INVALID_FIELD", str(error)) from None

    def _leave(self, drain: float) -> Future[None]:
        with self._lock:
            if self._closing is not None:
                return self._closing
            native = self._mine()
            closing = self._closing = self._process.call(lambda token: native.leave(token, drain))
        closing.add_done_callback(self._left)
        return closing

    def _left(self, _: Future[None]) -> None:
        self._process.registrations.pop(self._token, None)
        self._ended.set()
        self._streams.end()
        if not self._held.done():
            self._held.set_exception(Error("CLOSED", f"the registration of {self._logical_id} was closed"))

    def _late(self, timeout: float) -> Error:
        """The first lease was not granted in time: the attempt is taken back, unless it was to go on."""
        trouble = self.trouble
        if self._waits:
            self._leave(0.0)
        text = f"{self._logical_id} was not registered within {timeout} s; check that a daemon can be reached"
        return trouble or Unavailable("UNAVAILABLE", text, True)

    def _receive(self, kind: str, value: Any) -> None:
        """Takes an event of the native core, on the thread that reads them."""
        with self._lock:
            pass
        if kind == "stalled":
            self._publish(Stalled() if value else Resumed())
            return
        state, of_state = value
        if state == "lost":
            if of_state[1] != Reason.CLOSED.value:
                self._lose(Lost(Reason(of_state[1]), of_state[0]))
        elif state == "ended":
            self._end()
        elif state in ("held", "doubtful"):
            lease = Lease(*of_state)
            lost, self._last_lost = self._last_lost, None
            if state == "doubtful":
                self._publish(Doubtful(lease))
            else:
                self._publish(Held(lease) if lost is None else Rejoined(lease))
            if not self._held.done():
                self._held.set_result(None)

    def _lose(self, lost: Lost) -> None:
        _process.log.warning("lease %d of %s is lost: %s", lost.lease_id, self._logical_id, lost.reason.value)
        self._last_lost = lost
        self._publish(lost)
        if self._on_lost is not None:
            # On a thread of its own, so that it may call this package.
            threading.Thread(target=self._on_lost, args=(lost,), name="musterd-lost", daemon=True).start()

    def _end(self) -> None:
        if not self._held.done():
            trouble = self.trouble or Error("CLOSED", f"the registration of {self._logical_id} has ended")
            if self._closing is None:
                _process.log.warning("%s is not registered: %s", self._logical_id, trouble)
            self._held.set_exception(trouble)
        self._publish(Ended())
        self._ended.set()
        self._streams.end()
        if self._closing is None:
            self._process.registrations.pop(self._token, None)

    def _publish(self, event: Event) -> None:
        self._streams.publish(event)
