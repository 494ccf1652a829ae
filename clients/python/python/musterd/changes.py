"""The live instances of a name as a stream of changes, for threads and for asyncio."""

from __future__ import annotations

import os
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from . import _process
from .errors import foreign

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from . import _core
    from ._core import Target


@dataclass(frozen=True)
class Change:
    """One change of the live instances of a name."""

    kind: Literal["put", "gone"]
    """`put`: it is new, or its attributes or its suspicion have changed. `gone`: it drains, or its lease has ended."""
    target: Target


class Changes:
    """The live instances of a name, then each change of them, for one reader. Close it, or use it in `with`.

    A reader that is slow finds the latest state of each instance. The stream goes on while daemons fail.
    """

    def __init__(self, native: _core.Changes) -> None:
        self._native, self._pid = native, os.getpid()
        self._pending: Future[Any] | None = None

    def get(self, timeout: float | None = None) -> Change | None:
        """The next change; `None` after the timeout, or at the end."""
        try:
            return self._take(self._next().result(timeout))
        except FutureTimeout:
            return None

    def close(self) -> None:
        """Ends the stream."""
        if self._pid == os.getpid():
            self._native.close()

    def _next(self) -> Future[Any]:
        if self._pid != os.getpid():
            raise foreign("the stream of changes")
        if self._pending is None:
            self._pending = _process.current().call(self._native.next)
        return self._pending

    def _take(self, value: tuple[Literal["put", "gone"], Target] | None) -> Change | None:
        # At the end the outcome stays: every later call gets it too.
        if value is None:
            return None
        self._pending = None
        return Change(*value)

    def __iter__(self) -> Changes:
        return self

    def __next__(self) -> Change:
        change = self.get()
        if change is None:
            raise StopIteration
        return change

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __aiter__(self) -> Changes:
        return self

    async def __anext__(self) -> Change:
        import asyncio

        # A task that is cancelled leaves the change for the next one that asks.
        change = self._take(await asyncio.shield(asyncio.wrap_future(self._next())))
        if change is None:
            raise StopAsyncIteration
        return change

    async def __aenter__(self) -> Changes:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
