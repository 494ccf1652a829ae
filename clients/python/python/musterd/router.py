"""Finding live instances: `Router` picks from a cache, `resolve()` asks a daemon."""

from __future__ import annotations

import time
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from . import _core, _process
from ._core import Target
from .changes import Changes
from .errors import Error, NoLiveInstance, from_native, invalid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import TracebackType
    from uuid import UUID

    from typing_extensions import Unpack

    T = TypeVar("T")

Policy = Literal["best", "random", "rendezvous", "near"]

# How often a pick that waits looks for an instance.
_PAUSE = 0.05


class Choice(TypedDict, total=False):
    """Which instance of a name to choose."""

    policy: Policy
    """`best`: the longest serving one. `random`. `rendezvous`: the one that `key` falls to. `near`: one on the node
    `near` if there is one, otherwise the best. Without a policy, `key` and `near` imply theirs."""
    key: str
    near: str
    labels: Mapping[str, str]
    """Only instances that carry these labels."""
    exclude: Sequence[UUID]
    """Not these instances. At most 64."""


@dataclass(frozen=True)
class Resolved:
    """What a daemon answered."""

    target: Target
    alternatives: int
    """How many other live instances the choice was from."""
    cluster_epoch: UUID
    epoch_number: int
    revision: int
    """The answer is right as of this revision."""
    stale_for: float
    """How many seconds ago PostgreSQL last confirmed what the daemon knows."""


class Router:
    """Picks live instances from a cache, without a call. Make one for each process.

    The first use of a name begins to watch it: that pick waits until its instances are known. A pick gives the same
    answer as a daemon, but for instances that were reported as failed. Thread-safe; it works in a forked child, and can
    be pickled: its settings travel, not its cache.
    """

    def __init__(
        self,
        daemons: Sequence[str] | None = None,
        *,
        policy: Policy | None = None,
        labels: Mapping[str, str] | None = None,
        near: str | None = None,
        max_stale: float = 30.0,
        exclude_for: float = 5.0,
        idle: float = 300.0,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        token_file: str | None = None,
    ) -> None:
        """policy, labels, near: for picks that give none.

        max_stale: refuse to pick from knowledge that PostgreSQL has confirmed longer ago, to a daemon and by it to this router.
        exclude_for: leave an instance out for so long after a failure, as long as there is another one.
        idle: stop watching a name that was not used for so long.
        """
        files = (ca, cert, key, token_file)
        self._settings = (daemons, policy, dict(labels or {}), near, max_stale, exclude_for, idle, *files)
        self._default: Choice = {}
        if policy is not None:
            self._default["policy"] = policy
        if near is not None:
            self._default["near"] = near
        if labels:
            self._default["labels"] = labels
        self._made: tuple[_process.Process, _core.Router] | None = None
        self._router()

    def pick(self, name: str, *, wait: float = 0.0, **choice: Unpack[Choice]) -> Target:
        """Picks an instance. Waits up to `wait` seconds for a live one; the first use of a name also for its instances."""
        made = self._made
        if not choice and not self._default and made is not None and made[0] is _process.latest():
            # The pick that is asked for most.
            try:
                return made[1].pick_best(name)
            except _core.Failure:
                pass
        until = time.monotonic() + wait
        while True:
            try:
                return self._pick(name, choice)
            except NoLiveInstance:
                if time.monotonic() >= until:
                    raise
                time.sleep(_PAUSE)
            except Error as error:
                if error.reason != "NOT_READY":
                    raise
                self._ready(name).result()

    async def apick(self, name: str, *, wait: float = 0.0, **choice: Unpack[Choice]) -> Target:
        """As `pick`, without blocking the loop."""
        import asyncio

        until = time.monotonic() + wait
        while True:
            try:
                return self._pick(name, choice)
            except NoLiveInstance:
                if time.monotonic() >= until:
                    raise
                await asyncio.sleep(_PAUSE)
            except Error as error:
                if error.reason != "NOT_READY":
                    raise
                await asyncio.wrap_future(self._ready(name))

    def call(self, name: str, *, wait: float = 0.0, **choice: Unpack[Choice]) -> Call:
        """For `with` and `async with`: picks an instance, and leaves it out for a while after a connection error."""
        return Call(self, name, wait, choice)

    def run(
        self,
        name: str,
        function: Callable[[Target], T],
        *,
        attempts: int = 3,
        retry_on: tuple[type[BaseException], ...] = (ConnectionError, TimeoutError),
        wait: float = 0.0,
        **choice: Unpack[Choice],
    ) -> T:
        """Calls the function with an instance, and with another one after one of these errors.

        For what may be repeated: the instance may have done its work before the error.
        """
        for left in reversed(range(max(attempts, 1))):
            target = self.pick(name, wait=wait, **choice)
            try:
                return function(target)
            except retry_on:
                target.failed()
                if not left:
                    raise
        raise AssertionError("a loop that returns or raises")

    async def arun(
        self,
        name: str,
        function: Callable[[Target], Awaitable[T]],
        *,
        attempts: int = 3,
        retry_on: tuple[type[BaseException], ...] = (ConnectionError, TimeoutError),
        wait: float = 0.0,
        **choice: Unpack[Choice],
    ) -> T:
        """As `run`, for a function that is awaited."""
        for left in reversed(range(max(attempts, 1))):
            target = await self.apick(name, wait=wait, **choice)
            try:
                return await function(target)
            except retry_on:
                target.failed()
                if not left:
                    raise
        raise AssertionError("a loop that returns or raises")

    def watch(self, name: str) -> Changes:
        """The live instances of a name, then each change of them, for `for` and `async for`."""
        return Changes(self._router().watch(name))

    def targets(self, name: str) -> list[Target]:
        """All live instances of a name as they are known, the best first; empty before the first pick is ready."""
        return self._router().targets(name)

    def stale_for(self, name: str) -> float | None:
        """The seconds since PostgreSQL confirmed what is known of a name; `None` before its instances are known.

        Up to 6 while all is well: a daemon confirms with each change and every 5 s.
        """
        return self._router().stale_for(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, self._settings

    def _router(self) -> _core.Router:
        made = self._made
        if made is not None and made[0] is _process.latest():
            return made[1]
        daemons, _, _, _, max_stale, exclude_for, idle, *files = self._settings
        process = _process.current()
        try:
            router = process.client(daemons, *files).router(max_stale, exclude_for, idle)
        except ValueError as error:
            raise invalid(*str(error).split(": ", 1)) from None
        self._made = process, router
        return router

    def _ready(self, name: str) -> Future[None]:
        router = self._router()
        return _process.current().call(lambda token: router.ready(token, name))

    def _pick(self, name: str, choice: Choice) -> Target:
        router = self._router()
        try:
            if not choice and not self._default:
                return router.pick(name, "best", None, None, {}, ())
            return router.pick(name, *_arguments({**self._default, **choice}))
        except _core.Failure as failure:
            raise from_native(failure.args) from None
        except ValueError as error:
            raise invalid(*str(error).split(": ", 1)) from None


class Call(AbstractContextManager["Target"], AbstractAsyncContextManager["Target"]):
    """One call to an instance: `with router.call("organ") as target`."""

    def __init__(self, router: Router, name: str, wait: float, choice: Choice) -> None:
        self._router, self._name, self._wait, self._choice = router, name, wait, choice
        self._target: Target | None = None

    def __enter__(self) -> Target:
        self._target = self._router.pick(self._name, wait=self._wait, **self._choice)
        return self._target

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._target is not None and isinstance(error, (ConnectionError, TimeoutError)):
            self._target.failed()

    async def __aenter__(self) -> Target:
        self._target = await self._router.apick(self._name, wait=self._wait, **self._choice)
        return self._target

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def resolve(name: str, *, daemons: Sequence[str] | None = None, **choice: Unpack[Choice]) -> Resolved:
    """Asks a daemon for a live instance. For more than a call now and then use a `Router`."""
    return _resolved(_resolve(name, daemons, choice).result())


async def aresolve(name: str, *, daemons: Sequence[str] | None = None, **choice: Unpack[Choice]) -> Resolved:
    """As `resolve`, without blocking the loop."""
    import asyncio

    return _resolved(await asyncio.wrap_future(_resolve(name, daemons, choice)))


def _resolve(name: str, daemons: Sequence[str] | None, choice: Choice) -> Future[Any]:
    process = _process.current()
    client = process.client(daemons)
    try:
        return process.call(lambda token: client.resolve(token, name, *_arguments(choice)))
    except ValueError as error:
        raise invalid(*str(error).split(": ", 1)) from None


def _resolved(answer: tuple[Target, tuple[Any, ...]]) -> Resolved:
    target, known = answer
    return Resolved(target, *known)


def _arguments(choice: Choice) -> tuple[str, str | None, str | None, Mapping[str, str], Sequence[UUID]]:
    key, near = choice.get("key"), choice.get("near")
    implied = "rendezvous" if key is not None else "near" if near is not None else "best"
    policy = choice.get("policy", implied)
    if policy == "rendezvous" and key is None:
        raise invalid("key", "is missing; the policy rendezvous needs one")
    if policy == "near" and near is None:
        raise invalid("near", "is missing; the policy near needs the id of a node")
    return policy, key, near, dict(choice.get("labels", {})), list(choice.get("exclude", ()))


def _unpickle(
    daemons: Sequence[str] | None,
    policy: Policy | None,
    labels: Mapping[str, str],
    near: str | None,
    max_stale: float,
    exclude_for: float,
    idle: float,
    ca: str | None,
    cert: str | None,
    key: str | None,
    token_file: str | None = None,
) -> Router:
    files = {"ca": ca, "cert": cert, "key": key, "token_file": token_file}
    return Router(
        daemons, policy=policy, labels=labels, near=near, max_stale=max_stale, exclude_for=exclude_for, idle=idle, **files
    )
