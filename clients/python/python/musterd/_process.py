"""What this process has one of: the thread that reads events of native code, and the calls and registrations they are for.

Native code never calls Python. It queues events and makes a socket readable; the thread here reads it. A child process has
neither the native threads nor this thread of its parent, and starts its own at its first use.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import sys
import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Protocol

from . import _core
from .errors import Error, from_native

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger("musterd")

VERSION = "0.1.0"
DEFAULT_DAEMON = "127.0.0.1:7717"
CALL_TIMEOUT = 5.0
# What a client is made of beside its arguments.
_VARIABLES = ("MUSTERD_CA", "MUSTERD_CERT", "MUSTERD_CERT_KEY", "MUSTERD_TOKEN_FILE", "MUSTERD_TOKEN")


class Receiver(Protocol):
    """A registration, as its events see it."""

    def _receive(self, kind: str, value: Any) -> None: ...
    def _daemon_changed(self, client: int, daemon: str) -> None: ...
    def _leave(self, drain: float) -> Future[None]: ...


class Process:
    """The events, calls, registrations and clients of one process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        """Held while a registration is begun or closed."""
        self.changed = threading.Condition()
        """Notified when a registration was leased or has ended."""
        self.registrations: dict[int, Receiver] = {}
        self._calls: dict[int, Future[Any]] = {}
        self._clients: dict[tuple[object, ...], _core.Client] = {}
        self._tokens = itertools.count(1)
        descriptor = _core.fileno()
        threading.Thread(target=self._read, args=(descriptor,), name="musterd-events", daemon=True).start()

    def token(self) -> int:
        """A number for one call or registration."""
        return next(self._tokens)

    def call(self, start: Callable[[int], None]) -> Future[Any]:
        """Starts a native call with a token of its own. The future has its outcome."""
        token, future = self.token(), Future[Any]()
        self._calls[token] = future
        try:
            start(token)
        except BaseException:
            del self._calls[token]
            raise
        return future

    def client(
        self,
        daemons: Sequence[str] | None = None,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        token_file: str | None = None,
    ) -> _core.Client:
        """The client for these settings: one of each, so that all registrations beat over one stream."""
        names = _daemons(daemons)
        settings = (names, ca, cert, key, token_file, tuple(os.environ.get(name) for name in _VARIABLES))
        client = self._clients.get(settings)
        if client is None:
            # In another order in each process, so that a fleet spreads over the daemons.
            shuffled = random.SystemRandom().sample(names, len(names))
            try:
                application = f"musterd-python/{VERSION}"
                client = _core.Client(self.token(), shuffled, ca, cert, key, token_file, CALL_TIMEOUT, application)
            except _core.Failure as failure:
                raise from_native(failure.args) from None
            self._clients[settings] = client
        return client

    def _read(self, descriptor: int) -> None:
        while True:
            # It blocks without the GIL; when the interpreter ends, this thread is left where it is.
            if not os.read(descriptor, 4096):
                return
            for token, kind, value in _core.drain():
                try:
                    self._dispatch(token, kind, value)
                except Exception:
                    log.exception("an event of the native core was not handled: %s", kind)
            self.notify()

    def notify(self) -> None:
        """Wakes the threads that wait for a registration."""
        with self.changed:
            self.changed.notify_all()

    def _dispatch(self, token: int, kind: str, value: Any) -> None:
        if kind in ("done", "failed"):
            future = self._calls.pop(token, None)
            if future is None or not future.set_running_or_notify_cancel():
                return
            if kind == "done":
                future.set_result(value)
            else:
                future.set_exception(from_native(value))
        elif kind == "daemon":
            for one in list(self.registrations.values()):
                one._daemon_changed(token, value)
        elif (registration := self.registrations.get(token)) is not None:
            registration._receive(kind, value)


def _daemons(daemons: Sequence[str] | None) -> tuple[str, ...]:
    if daemons is None:
        text = os.environ.get("MUSTERD_ADDR", "").strip() or DEFAULT_DAEMON
        return tuple(name.strip() for name in text.split(","))
    if isinstance(daemons, str):
        return tuple(name.strip() for name in daemons.split(","))
    return tuple(daemons)


_lock = threading.Lock()
_current: Process | None = None


def latest() -> Process | None:
    """That of this process, if it was asked for before. A fork from Python makes it `None` in the child."""
    return _current


def current() -> Process:
    """That of this process."""
    global _current
    process = _current
    if process is not None and process.pid == os.getpid():
        return process
    with _lock:
        if _current is None or _current.pid != os.getpid():
            _current = Process()
            _close_at_exit()
        return _current


def _close_at_exit() -> None:
    """A child that multiprocessing has forked ends without `atexit`, but runs its own finalizers."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, close_all, exitpriority=0)


def close_all(timeout: float = 1.0) -> None:
    """Gives all leases of this process back, within the timeout."""
    process = _current
    if process is None or process.pid != os.getpid():
        return
    left = []
    for registration in list(process.registrations.values()):
        try:
            left.append(registration._leave(0.0))
        except Error:
            log.debug("a registration was not given back", exc_info=True)
    wait(left, timeout)


def _after_fork() -> None:
    global _current, _lock
    _current, _lock = None, threading.Lock()
    _core.after_fork_in_child()


os.register_at_fork(
    before=_core.before_fork, after_in_parent=_core.after_fork_in_parent, after_in_child=_after_fork
)
