"""Draining on signals: an orderly end, in front of the handlers that are there."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, Any

from . import _process
from .errors import Error
from .states import Status

if TYPE_CHECKING:
    from .registration import Registration


def drain_on(registration: Registration, signals: tuple[int, ...], grace: float) -> None:
    """Installs a handler for each signal."""
    for number in signals:
        _Drain(registration, number, grace).install()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # A real-time signal between the first and the last has no name.
        return f"signal {number}"


class _Drain:
    def __init__(self, registration: Registration, number: int, grace: float) -> None:
        self._registration, self._number, self._grace = registration, number, grace
        self._pid, self._before, self._step = os.getpid(), signal.getsignal(number), 0
        self._passed = threading.Event()

    def install(self) -> None:
        signal.signal(self._number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        # A child has inherited the handler and not the registration.
        if self._pid == os.getpid() and not self._passed.is_set():
            self._step += 1
            if self._step == 1:
                threading.Thread(target=self._drain, name="musterd-drain", daemon=True).start()
                return
            # A second signal does not wait for the grace.
            self._passed.set()
        self._pass_on(number, frame)

    def _drain(self) -> None:
        try:
            self._registration._set_status(Status.DRAINING, f"received {_name(self._number)}").result(self._grace)
        except (Error, FutureTimeout) as error:
            _process.log.info("the instance was not drained: %s", error)
        if self._passed.wait(self._grace):
            return
        self._passed.set()
        if not callable(self._before):
            # The process ends at once then; a handler ends it in its own time, with the lease until it is done.
            self._registration.close()
        # Handlers run on the main thread: the signal is sent once more, and is passed on then.
        os.kill(self._pid, self._number)

    def _pass_on(self, number: int, frame: Any) -> None:
        if callable(self._before):
            self._before(number, frame)
        elif self._before != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
