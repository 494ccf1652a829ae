"""Streams of events: for threads and for asyncio, as many at a time as an application likes, on any loop."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Event as LoopEvent
    from types import TracebackType

    from .states import Event

# A reader that is slower loses the oldest events.
_LENGTH = 1024


class EventStream:
    """Events from the moment on at which it was opened. Close it, or use it in `with` or `async with`."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._events: deque[Event] = deque(maxlen=_LENGTH)
        self._changed = threading.Condition()
        self._waiting: tuple[AbstractEventLoop, LoopEvent] | None = None
        self._ended = False

    def get(self, timeout: float | None = None) -> Event | None:
        """The next event; `None` after the timeout, or at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._ended, timeout)
            return self._events.popleft() if self._events else None

    def close(self) -> None:
        """Ends the stream."""
        self._streams.close(self)
        self._end()

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> Event:
        event = self.get()
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        import asyncio

        while True:
            with self._changed:
                if self._events:
                    return self._events.popleft()
                if self._ended:
                    raise StopAsyncIteration
                woken = asyncio.Event()
                self._waiting = (asyncio.get_running_loop(), woken)
            await woken.wait()

    async def __aenter__(self) -> EventStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _publish(self, event: Event) -> None:
        with self._changed:
            self._events.append(event)
        self._wake()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
        self._wake()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            loop, woken = waiting
            try:
                loop.call_soon_threadsafe(woken.set)
            except RuntimeError:
                # The loop was closed while a task waited in it.
                self._streams.close(self)


class Streams:
    """The streams of one registration."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[EventStream] = []
        self._ended = False

    def open(self) -> EventStream:
        """A new stream."""
        stream = EventStream(self)
        with self._lock:
            self._open.append(stream)
            ended = self._ended
        if ended:
            stream._end()
        return stream

    def close(self, stream: EventStream) -> None:
        """Forgets a stream."""
        with self._lock:
            if stream in self._open:
                self._open.remove(stream)

    def publish(self, event: Event) -> None:
        """Tells all streams."""
        with self._lock:
            streams = list(self._open)
        for stream in streams:
            stream._publish(event)

    def end(self) -> None:
        """Ends all streams."""
        with self._lock:
            self._ended, streams = True, list(self._open)
            self._open.clear()
        for stream in streams:
            stream._end()
