"""For FastAPI and other ASGI applications: registered while the application runs. FastAPI itself is not imported.

    app = FastAPI(lifespan=musterd.fastapi.lifespan("organ", port=8000))

    @app.get("/")
    async def ask(router: Annotated[musterd.Router, Depends(musterd.fastapi.router)]): ...
"""

from __future__ import annotations

import functools
import signal
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ._register import register
from .router import Router

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager


def lifespan(
    logical_id: str,
    *,
    signals: Sequence[int] = (signal.SIGTERM,),
    grace: float = 5.0,
    **settings: Any,
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """A lifespan that registers under this name; `request.state.registration` has the registration.

    On each of `signals` the instance drains, and the server goes on for `grace` seconds until routers have noticed; then
    the server ends as it would have. The other settings are those of `musterd.register()`.

    Several workers on one port are several instances with one address: register in their parent instead, or give no port.
    """

    @asynccontextmanager
    async def registered(_: Any) -> AsyncIterator[dict[str, Any]]:
        async with register(logical_id, **settings) as registration:
            # Elsewhere signals have no handlers, for example in a test client.
            if threading.current_thread() is threading.main_thread():
                registration.drain_on(*signals, grace=grace)
            yield {"registration": registration}

    return registered


@functools.lru_cache(maxsize=None)
def router() -> Router:
    """The router of this process, for `Depends`."""
    return Router()
