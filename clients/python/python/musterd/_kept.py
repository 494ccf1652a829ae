"""What a registration is made of: its native part, and what follows from its events."""

from __future__ import annotations

import functools
import os
import threading
from typing import TYPE_CHECKING, Any

from . import _core, _events, _process
from .errors import Error, Unavailable, foreign, from_native
from .states import (
    DaemonChanged,
    Doubtful,
    Ended,
    Held,
    Lease,
    Lost,
    Reason,
    Rejoined,
    Resumed,
    Stalled,
    Status,
    StatusChanged,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from .states import Event


class Kept:
    """The inner side of a `Registration`."""

    # A process may hold thousands of registrations: they have slots, wait on a condition that all share, and make the lists
    # of their event streams only when there is one.
    __slots__ = (
        "__weakref__",
        "_client",
        "_closing",
        "_failure",
        "_is_ended",
        "_last_lost",
        "_logical_id",
        "_native",
        "_on_lost",
        "_pid",
        "_process",
        "_status",
        "_streams",
        "_timeout",
        "_token",
        "_waits",
        "_was_held",
    )

    def __init__(
        self,
        client: _core.Client,
        settings: _core.Settings,
        timeout: float,
        waits: bool,
        on_lost: Callable[[Lost], None] | None,
    ) -> None:
        process = _process.current()
        self._pid, self._process, self._timeout, self._on_lost = process.pid, process, timeout, on_lost
        # Whether it is given up when the first lease is not granted in time.
        self._waits = waits
        self._logical_id, self._client = settings["logical_id"], client.token()
        # What the application wants.
        self._status = Status(settings["status"])
        self._was_held = self._is_ended = False
        # Why there will be no first lease.
        self._failure: Error | None = None
        self._last_lost: Lost | None = None
        self._closing: Future[None] | None = None
        self._streams: _events.Streams | None = None
        self._token = process.token()
        # Kept alive by the process: a registration that the application does not keep is still registered.
        process.registrations[self._token] = self
        try:
            # Its events wait for this lock.
            with process.lock:
                self._native = client.register(self._token, settings)
        except BaseException as failure:
            del process.registrations[self._token]
            if isinstance(failure, _core.Failure):
                raise from_native(failure.args) from None
            raise

    @property
    def trouble(self) -> Error | None:
        """Why the registry cannot be reached or refuses the registration; `None` once the lease is held and renewed."""
        trouble = self._mine().trouble()
        return None if trouble is None else from_native(trouble)

    def _is_settled(self) -> bool:
        return self._was_held or self._failure is not None

    def _mine(self) -> _core.Registration:
        if self._pid != os.getpid():
            raise foreign(f"the registration of {self._logical_id}")
        return self._native

    def _set_status(self, status: Status, reason: str) -> Future[None]:
        native, word = self._mine(), Status(status).value
        if word != Status.DEAD.value:
            self._status = Status(status)
        try:
            changing = self._process.call(lambda token: native.set_status(token, word, reason))
        except ValueError as error:
            raise Error("INVALID_FIELD", str(error)) from None
        changing.add_done_callback(functools.partial(self._status_was_set, status, reason))
        return changing

    def _status_was_set(self, status: Status, reason: str, changing: Future[None]) -> None:
        if not changing.cancelled() and changing.exception() is None:
            self._publish(StatusChanged(Status(status), reason))

    def _update(self, labels: Mapping[str, str] | None, version: str | None, actor_name: str | None) -> Future[None]:
        native, wanted = self._mine(), None if labels is None else dict(labels)
        return self._process.call(lambda token: native.update(token, wanted, version, actor_name))

    def _leave(self, drain: float) -> Future[None]:
        with self._process.lock:
            if self._closing is not None:
                return self._closing
            native = self._mine()
            closing = self._closing = self._process.call(lambda token: native.leave(token, drain))
        closing.add_done_callback(self._left)
        return closing

    def _left(self, _: Future[None]) -> None:
        self._process.registrations.pop(self._token, None)
        self._finish(Error("CLOSED", f"the registration of {self._logical_id} was closed"))

    def _finish(self, failure: Error) -> None:
        """Nothing follows; the failure is that of a registration that never had a lease."""
        if not self._was_held:
            self._failure = self._failure or failure
        self._is_ended = True
        if self._streams is not None:
            self._streams.end()
        self._process.notify()

    def _wait_ended(self, timeout: float) -> bool:
        with self._process.changed:
            return self._process.changed.wait_for(lambda: self._is_ended, timeout)

    def _late(self, timeout: float) -> Error:
        """The first lease was not granted in time: the attempt is taken back, unless it was to go on."""
        trouble = self.trouble
        if self._waits:
            self._leave(0.0)
        text = f"{self._logical_id} was not registered within {timeout} s; check that a daemon can be reached"
        return trouble or Unavailable("UNAVAILABLE", text, True)

    def _receive(self, kind: str, value: Any) -> None:
        """Takes an event of the native core, on the thread that reads them."""
        with self._process.lock:
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
            self._was_held = True
            if state == "doubtful":
                self._publish(Doubtful(lease))
            else:
                self._publish(Held(lease) if lost is None else Rejoined(lease))

    def _lose(self, lost: Lost) -> None:
        _process.log.warning("lease %d of %s is lost: %s", lost.lease_id, self._logical_id, lost.reason.value)
        self._last_lost = lost
        self._publish(lost)
        if self._on_lost is not None:
            # On a thread of its own, so that it may call this package.
            threading.Thread(target=self._on_lost, args=(lost,), name="musterd-lost", daemon=True).start()

    def _end(self) -> None:
        trouble = self.trouble or Error("CLOSED", f"the registration of {self._logical_id} has ended")
        if not self._was_held and self._closing is None:
            _process.log.warning("%s is not registered: %s", self._logical_id, trouble)
        self._publish(Ended())
        self._finish(trouble)
        if self._closing is None:
            self._process.registrations.pop(self._token, None)

    def _daemon_changed(self, client: int, daemon: str) -> None:
        """Another daemon takes the beats of a client."""
        if client == self._client:
            self._publish(DaemonChanged(daemon))

    def _publish(self, event: Event) -> None:
        if self._streams is not None:
            self._streams.publish(event)
