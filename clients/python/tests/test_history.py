"""The router against the daemon over a random history, many processes on daemons that are killed, a lease against its death."""

from __future__ import annotations

import functools
import random
import signal
import time
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import musterd
import pytest
from harness import Daemon, Listed, Proxy, Registry, Script, wait_until

NAME = "history"


def answer(ask: Callable[[], musterd.Target]) -> UUID | None:
    """Which instance is chosen; `None` if there is none."""
    try:
        return ask().instance_id
    except (musterd.NoLiveInstance, musterd.UnknownLogicalId):
        return None


def step(dice: random.Random, held: list[musterd.Registration], daemon: Daemon) -> str:
    """Does one thing that has an effect on answers."""
    zone, at = {"zone": f"z{dice.randrange(2)}"}, dice.randrange(len(held)) if held else None
    kind = dice.randrange(10)
    if at is None or kind < 4:
        held.append(musterd.register(NAME, port=len(held) + 1, node_id=f"n{dice.randrange(3)}", labels=zone, ttl=10))
        return "register"
    if kind == 4:
        held.pop(at).close()
        return "close"
    if kind == 5:
        held[at].drain()
        return "drain"
    if kind == 6:
        held[at].ready()
        return "ready"
    if kind < 9:
        held[at].update(labels=zone)
        return "update"
    before = {one.lease.lease_id for one in held if one.lease is not None}
    daemon.command("epoch", "rotate", "--force")
    for one in held:
        wait_until("it has rejoined, or ended while it drained", functools.partial(is_settled, one, before))
    held[:] = [one for one in held if one.state is not musterd.State.ENDED]
    return "rotate"


def is_settled(one: musterd.Registration, before: set[int]) -> bool:
    lease = one.lease
    return one.state is musterd.State.ENDED or (lease is not None and lease.lease_id not in before)


def agree(router: musterd.Router, choice: musterd.Choice) -> bool:
    return answer(lambda: router.pick(NAME, **choice)) == answer(lambda: musterd.resolve(NAME, **choice).target)


def test_router_answers_as_the_daemon_over_a_random_history(daemon: Daemon) -> None:
    dice, router = random.Random(20_261_127), musterd.Router()
    held: list[musterd.Registration] = []
    history: list[str] = []
    for _ in range(25):
        history.append(step(dice, held, daemon))
        choices: list[musterd.Choice] = [{}, {"labels": {"zone": "z0"}}, {"labels": {"zone": "z9"}}]
        choices.extend({"near": f"n{number}"} for number in range(4))
        choices.extend({"key": f"key-{dice.random()}"} for _ in range(8))
        if held:
            choices.append({"exclude": [held[0].instance_id]})
        for choice in choices:
            # The cache follows a moment later; an answer that stays different is wrong.
            what = f"the router answers as the daemon to {choice} after {history}"
            wait_until(what, functools.partial(agree, router, choice))
    for one in held:
        one.close()


@pytest.mark.slow
def test_300_registrations_in_30_processes_survive_two_of_three_daemons(registry: Registry) -> None:
    text = """
        import sys, musterd
        held = [musterd.register("crowd", port=port, ttl=15, wait=False) for port in range(1, 11)]
        for one in held: one.wait_held(120)
        leases = [one.require() for one in held]
        print("held", flush=True)
        for line in sys.stdin:
            print(leases == [one.require() for one in held], flush=True)
    """
    with registry.another() as first, registry.another() as second:
        addresses = ",".join([first.address, second.address, registry.daemon.address])
        crowd = [Script(text, addresses) for _ in range(30)]
        try:
            for process in crowd:
                assert process.line() == "held"
            leases = {one.lease_id for one in registry.daemon.instances("crowd")}
            assert len(leases) == 300
            for daemon in (first, second):
                daemon.signal(signal.SIGKILL)
                daemon.process.wait()
                # A process that has not come to another daemon is suspect before a TTL has passed.
                until = time.monotonic() + 15
                while time.monotonic() < until:
                    for process in crowd:
                        process.tell()
                        assert process.line() == "True"
                assert wait_until("all beat", lambda: beating(registry.daemon)) == leases
        finally:
            for process in crowd:
                process.__exit__(None, None, None)


def beating(daemon: Daemon) -> set[int] | None:
    """The leases of the crowd, once none of them is suspect."""
    listed = daemon.instances("crowd")
    return None if any(one.suspect for one in listed) else {one.lease_id for one in listed}


def test_lease_is_never_held_once_the_registry_has_declared_it_dead(daemon: Daemon) -> None:
    text = """
        import sys, time, musterd
        registration = musterd.register("outlived", port=1, ttl=2, on_lost="stop")
        print("ready", flush=True)
        while True:
            try:
                held_at = time.time()
                registration.require()
                last = held_at
            except musterd.LeaseLost as lost:
                print(last, lost.lost.reason.value, flush=True)
                break
    """
    proxy = Proxy(daemon.address)
    with Script(text, proxy.address) as script:
        assert script.line() == "ready"
        proxy.cut()
        last, reason = script.line().split()
        assert reason == "deadline"
        ended = wait_until("it is dead", lambda: [one for one in listed(daemon, "outlived") if one.status == "dead"])
        assert datetime.fromisoformat(ended[0].died_at.replace("Z", "+00:00")).timestamp() > float(last)
    proxy.join()


def listed(daemon: Daemon, name: str) -> list[Listed]:
    return daemon.instances(name, "--all-statuses")
