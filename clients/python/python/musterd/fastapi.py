"""For FastAPI and other ASGI applications: registered while the application runs. FastAPI itself is not imported.

    app = FastAPI(lifespan=musterd.fastapi.lifespan("organ", port=8000))

    @app.get("/")
    async def ask(router: Annotated[musterd.Router, Depends(musterd.fastapi.router)]): ...
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ._register import register
from .errors import Error
from .router import Router
from .states import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from .registration import Registration

# How often the port is tried, how long one attempt may take, and for how long it is tried.
_PAUSE, _ATTEMPT, _LISTENING_MAX = 0.02, 0.5, 5.0


def lifespan(
    logical_id: str,
    *,
    signals: Sequence[int] = (signal.SIGTERM,),
    grace: float = 5.0,
    **settings: Any,
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """A lifespan that registers under this name; `request.state.registration` has the registration.

    A server begins to listen after its lifespan has begun. So with a `port`, and unless a `status` is given, the instance is
    STARTING until that port accepts connections, at most for 5 s, and then ALIVE.

    On each of `signals` the instance drains, and the server goes on for `grace` seconds until routers have noticed; then
    the server ends as it would have. The other settings are those of `musterd.register()`.

    Several workers on one port are several instances with one address: register in their parent instead, or give no port.
    """

    @asynccontextmanager
    async def registered(_: Any) -> AsyncIterator[dict[str, Any]]:
        waits = settings.get("port") is not None and "status" not in settings
        wanted = {**settings, "status": Status.STARTING} if waits else settings
        async with register(logical_id, **wanted) as registration, _listening(registration, waits, settings):
            # Elsewhere signals have no handlers, for example in a test client.
            if threading.current_thread() is threading.main_thread():
                registration.drain_on(*signals, grace=grace)
            yield {"registration": registration}

    return registered


@asynccontextmanager
async def _listening(registration: Registration, waits: bool, settings: dict[str, Any]) -> AsyncIterator[None]:
    """Sets the instance ALIVE in the background, once its port accepts connections."""
    if not waits:
        yield
        return
    hosts = [host for host in (settings.get("ip"), "127.0.0.1", "::1") if host]
    task = asyncio.create_task(_ready(registration, hosts, settings["port"]))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _ready(registration: Registration, hosts: Sequence[str], port: int) -> None:
    loop = asyncio.get_running_loop()
    # An address behind a translation may not be reachable from here.
    until = loop.time() + _LISTENING_MAX
    while loop.time() < until and not await _accepts(hosts, port):
        await asyncio.sleep(_PAUSE)
    # A signal may have drained it meanwhile.
    while registration.status is Status.STARTING:
        try:
            await registration.aset_status(Status.ALIVE)
        except Error as error:
            if not error.retryable:
                raise
            await asyncio.sleep(_PAUSE)


async def _accepts(hosts: Sequence[str], port: int) -> bool:
    for host in hosts:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _ATTEMPT)
        except (OSError, asyncio.TimeoutError):
            continue
        writer.close()
        return True
    return False


@functools.lru_cache(maxsize=None)
def router() -> Router:
    """The router of this process, for `Depends`."""
    return Router()
