"""For httpx: requests to `http://NAME.muster/...` go to a live instance of NAME.

    client = httpx.Client(transport=musterd.httpx.Transport(musterd.Router()))
    client.get("http://organ.muster/status")

If no connection to an instance can be made, another one is tried. A request that was sent is never repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from types import TracebackType

    from ._core import Target
    from .router import Router

SUFFIX = ".muster"


def _name(request: httpx.Request) -> str | None:
    host = request.url.host
    return host[: -len(SUFFIX)] if host.endswith(SUFFIX) else None


def _aim(request: httpx.Request, target: Target) -> httpx.Request:
    """The request, at the address of an instance, with its lease for the receiver to check."""
    headers = request.headers.copy()
    headers.setdefault("musterd-lease", str(target.lease_id))
    url = request.url.copy_with(host=target.ip, port=target.port)
    return httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)


class Transport(httpx.BaseTransport):
    """For `httpx.Client`."""

    def __init__(
        self, router: Router, inner: httpx.BaseTransport | None = None, *, attempts: int = 3, wait: float = 0.0
    ) -> None:
        """inner: makes the requests; attempts: how many instances are tried; wait: how long to wait for a live one."""
        self._router, self._inner = router, inner or httpx.HTTPTransport()
        self._attempts, self._wait = max(attempts, 1), wait

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request."""
        name = _name(request)
        if name is None:
            return self._inner.handle_request(request)
        for left in reversed(range(self._attempts)):
            target = self._router.pick(name, wait=self._wait)
            try:
                return self._inner.handle_request(_aim(request, target))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                target.failed()
                if not left:
                    raise
        raise AssertionError("a loop that returns or raises")

    def close(self) -> None:
        """Closes the connections."""
        self._inner.close()

    def __enter__(self) -> Transport:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._inner.__exit__(exc_type, exc_value, traceback)


class AsyncTransport(httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient`."""

    def __init__(
        self, router: Router, inner: httpx.AsyncBaseTransport | None = None, *, attempts: int = 3, wait: float = 0.0
    ) -> None:
        """As `Transport`."""
        self._router, self._inner = router, inner or httpx.AsyncHTTPTransport()
        self._attempts, self._wait = max(attempts, 1), wait

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request."""
        name = _name(request)
        if name is None:
            return await self._inner.handle_async_request(request)
        for left in reversed(range(self._attempts)):
            target = await self._router.apick(name, wait=self._wait)
            try:
                return await self._inner.handle_async_request(_aim(request, target))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                target.failed()
                if not left:
                    raise
        raise AssertionError("a loop that returns or raises")

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._inner.aclose()

    async def __aenter__(self) -> AsyncTransport:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._inner.__aexit__(exc_type, exc_value, traceback)
