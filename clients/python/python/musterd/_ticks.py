"""Ticks for `stall_after`: signs that Python code of the process, or its event loop, still runs."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .registration import Registration

Tick = Literal["auto", "manual"]


def start(registration: Registration, stall_after: float, tick: Tick) -> None:
    """Ticks from the event loop of the caller, or from a thread if the caller is in none."""
    if tick == "manual":
        return
    pause = stall_after / 4
    if not _on_loop(registration, pause):
        arguments = (registration, pause)
        threading.Thread(target=_on_thread, args=arguments, name="musterd-ticks", daemon=True).start()


def running_loop() -> object | None:
    """The event loop that runs in this thread. A program that has not imported asyncio has none."""
    import sys

    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()


def _on_loop(registration: Registration, pause: float) -> bool:
    if running_loop() is None:
        return False
    import asyncio

    loop = asyncio.get_running_loop()

    def tick() -> None:
        if not registration._is_ended:
            registration.tick()
            loop.call_later(pause, tick)

    tick()
    return True


def _on_thread(registration: Registration, pause: float) -> None:
    pid = os.getpid()
    while pid == os.getpid() and not registration._wait_ended(pause):
        registration.tick()
