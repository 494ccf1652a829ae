"""The router and `resolve()`: what they pick, what they leave out, and when they refuse to guess."""

from __future__ import annotations

import asyncio
import pickle
import random
import signal
import uuid

import musterd
import pytest
from harness import Daemon, Proxy, Registry, Script, wait_until


def test_router_and_resolve_give_the_same_answer(daemon: Daemon) -> None:
    router = musterd.Router()
    zones = {1: "a", 2: "b", 3: "b"}
    held = [
        musterd.register("same", port=port, labels={"zone": zone}, node_id=f"n{port}", serve_route=f"/{port}")
        for port, zone in zones.items()
    ]
    wait_until("the router knows them", lambda: router.pick("same", wait=30) and len(router.targets("same")) == 3)
    choices: list[musterd.Choice] = [{}, {"near": "n2"}, {"near": "n9"}, {"labels": {"zone": "b"}}]
    choices.extend({"key": f"key-{number}"} for number in range(50))
    choices.extend([{"exclude": [held[0].instance_id]}, {"exclude": [held[0].instance_id], "near": "n3"}])
    for choice in choices:
        resolved = musterd.resolve("same", **choice)
        assert router.pick("same", **choice) == resolved.target, choice
    resolved = musterd.resolve("same")
    assert (resolved.alternatives, resolved.target.port, resolved.target.serve_route) == (2, 1, "/1")
    assert resolved.epoch_number >= 1 and resolved.revision >= resolved.target.lease_id and resolved.stale_for >= 0
    picked = {router.pick("same", policy="random").port for _ in range(200)}
    assert picked == {1, 2, 3}
    for one in held:
        one.close()


def test_target_tells_where_and_with_which_lease_to_call(daemon: Daemon) -> None:
    with musterd.register("target", ip="fd00::1", port=80, labels={"a": "b"}, version="2", actor_name="x") as held:
        target = musterd.Router().pick("target", wait=30)
        assert (target.ip, target.port, target.address, target.url) == (
            "fd00::1",
            80,
            "[fd00::1]:80",
            "http://[fd00::1]:80",
        )
        assert (target.instance_id, target.lease_id, target.suspect) == (held.instance_id, held.lease_id, False)
        assert (target.labels, target.version, target.actor_name) == ({"a": "b"}, "2", "x")
        assert target.headers == {"musterd-lease": str(held.lease_id)}


def test_name_without_instances_has_typed_errors(daemon: Daemon) -> None:
    router = musterd.Router()
    with pytest.raises(musterd.NoLiveInstance) as none:
        router.pick("no_such_name")
    assert isinstance(none.value, LookupError) and none.value.reason == "NO_LIVE_INSTANCE"
    with pytest.raises(musterd.UnknownLogicalId):
        musterd.resolve("no_such_name")
    with pytest.raises(musterd.InvalidField) as refused:
        router.pick("x" * 300)
    assert refused.value.violations[0].field == "logical_id"
    with pytest.raises(musterd.InvalidField):
        router.pick("no_such_name", policy="near")
    with pytest.raises(musterd.InvalidField):
        musterd.Router(max_stale=-1)


def test_pick_waits_for_the_first_instance(daemon: Daemon) -> None:
    async def main() -> None:
        router = musterd.Router()
        picking = asyncio.create_task(router.apick("coming", wait=60))
        await asyncio.sleep(0.1)
        assert not picking.done()
        async with musterd.register("coming", port=7):
            assert (await picking).port == 7

    asyncio.run(main())


def test_instance_that_failed_is_left_out_as_long_as_there_is_another(daemon: Daemon) -> None:
    router = musterd.Router(exclude_for=600)
    with musterd.register("failing", port=1), musterd.register("failing", port=2):
        wait_until("the router knows both", lambda: router.pick("failing", wait=30) and len(router.targets("failing")) == 2)
        calls: list[int] = []

        def call(target: musterd.Target) -> str:
            calls.append(target.port)
            if target.port == 1:
                raise ConnectionRefusedError
            return "done"

        assert router.run("failing", call) == "done" and calls == [1, 2]
        assert router.pick("failing").port == 2
        with pytest.raises(ConnectionResetError), router.call("failing") as target:
            raise ConnectionResetError
        assert target.port == 2
        # Both have failed: one that failed is better than none.
        assert router.pick("failing").port == 1
        with pytest.raises(ConnectionRefusedError):
            musterd.Router().run("failing", call, attempts=1)


def test_run_in_a_loop_goes_on_to_another_instance(daemon: Daemon) -> None:
    async def call(target: musterd.Target) -> int:
        if target.port == 1:
            raise TimeoutError
        return target.port

    async def main() -> None:
        router = musterd.Router()
        async with musterd.register("in_loop_run", port=1), musterd.register("in_loop_run", port=2):
            wait_known = router.targets
            while len(wait_known("in_loop_run")) < 2:
                await router.apick("in_loop_run", wait=30)
                await asyncio.sleep(0.02)
            assert await router.arun("in_loop_run", call) == 2
            async with router.call("in_loop_run") as target:
                assert target.port == 2

    asyncio.run(main())


def test_router_goes_on_without_daemons_until_it_is_too_stale(daemon: Daemon) -> None:
    proxy = Proxy(daemon.address)
    router, strict = musterd.Router([proxy.address]), musterd.Router([proxy.address], max_stale=7)
    with musterd.register("stale", port=1):
        assert router.stale_for("stale") is None
        for each in (router, strict):
            each.pick("stale", wait=30)
        proxy.cut()
        with pytest.raises(musterd.Stale):
            while True:
                strict.pick("stale")
        assert router.pick("stale").port == 1
        age = router.stale_for("stale")
        assert age is not None and age > 7
        proxy.join()
        wait_until("it is confirmed again", lambda: (router.stale_for("stale") or 9) < 5)


def test_router_survives_its_daemon_and_follows_changes_at_the_next(pair: tuple[Daemon, Daemon], daemon: Daemon) -> None:
    killed, other = pair
    router = musterd.Router([killed.address, other.address])
    with musterd.register("following", port=1, daemons=[daemon.address]) as first:
        assert router.pick("following", wait=30).lease_id == first.lease_id
        killed.signal(signal.SIGKILL)
        with musterd.register("following", port=2, daemons=[daemon.address]) as second:
            wait_until("it knows the second", lambda: len(router.targets("following")) == 2)
            first.drain()
            wait_until("it picks the second", lambda: router.pick("following").lease_id == second.lease_id)


def test_killed_instance_is_passed_over_once_it_is_suspect(daemon: Daemon) -> None:
    text = "import musterd, signal; musterd.register('killed', port=1, ttl=3); print('ready', flush=True); signal.pause()"
    router = musterd.Router()
    with Script(text, daemon.address) as script:
        assert script.line() == "ready"
        with musterd.register("killed", port=2):
            assert router.pick("killed", wait=30).port == 1
            script.process.kill()
            wait_until("the other is picked", lambda: router.pick("killed").port == 2)


def test_router_is_pickled_with_its_settings(daemon: Daemon) -> None:
    with musterd.register("travelling", port=1, labels={"a": "b"}), musterd.register("travelling", port=2):
        router = pickle.loads(pickle.dumps(musterd.Router(labels={"a": "b"})))
        assert {router.pick("travelling", wait=30, policy="random").port for _ in range(20)} == {1}
        with pytest.raises(musterd.NoLiveInstance):
            router.pick("travelling", labels={"a": "c"})


def test_keys_stay_with_their_instances_when_another_one_goes(daemon: Daemon) -> None:
    router = musterd.Router()
    held = [musterd.register("keys", port=port) for port in range(1, 5)]
    wait_until("all are known", lambda: router.pick("keys", wait=30) and len(router.targets("keys")) == 4)
    keys = [str(uuid.UUID(int=random.getrandbits(128))) for _ in range(200)]
    before = {key: router.pick("keys", key=key).port for key in keys}
    held.pop().close()
    wait_until("three are known", lambda: len(router.targets("keys")) == 3)
    after = {key: router.pick("keys", key=key).port for key in keys}
    assert all(after[key] == port for key, port in before.items() if port != 4) and 4 not in after.values()
    for one in held:
        one.close()


def test_resolve_in_a_loop_asks_a_daemon(daemon: Daemon, registry: Registry) -> None:
    async def main() -> musterd.Resolved:
        async with musterd.register("asked", port=3):
            return await musterd.aresolve("asked", daemons=[registry.daemon.address])

    assert asyncio.run(main()).target.port == 3


def test_watch_tells_each_change_and_resumes_at_the_next_daemon(pair: tuple[Daemon, Daemon], daemon: Daemon) -> None:
    killed, other = pair
    router = musterd.Router([killed.address, other.address])
    with musterd.register("watched", port=1) as first, router.watch("watched") as changes:
        assert one(changes) == ("put", first.lease_id)
        killed.signal(signal.SIGKILL)
        with musterd.register("watched", port=2) as second:
            lease = second.require()
            assert one(changes) == ("put", lease)
            first.drain()
            assert one(changes) == ("gone", first.lease_id)
            assert changes.get(0) is None
        assert one(changes) == ("gone", lease)
        changes.close()
        assert list(changes) == []


def one(changes: musterd.Changes) -> tuple[str, int]:
    change = changes.get(60)
    assert change is not None
    return change.kind, change.target.lease_id


def test_watch_in_a_loop_keeps_the_change_of_a_task_that_was_cancelled(daemon: Daemon) -> None:
    async def main() -> None:
        async with musterd.Router().watch("watched_in_loop") as changes:
            waiting = asyncio.create_task(anext(changes))
            await asyncio.sleep(0)
            waiting.cancel()
            async with musterd.register("watched_in_loop", port=1) as registration:
                change = await asyncio.wait_for(anext(changes), 60)
                assert (change.kind, change.target.lease_id) == ("put", registration.lease_id)

    asyncio.run(main())


def test_watch_of_a_name_that_is_none_is_refused(daemon: Daemon) -> None:
    with musterd.Router().watch("x" * 300) as changes, pytest.raises(musterd.InvalidField):
        changes.get(60)


def test_instance_that_failed_may_be_left_out_for_a_time_of_its_own(daemon: Daemon) -> None:
    router = musterd.Router(exclude_for=0)
    with musterd.register("failing_long", port=1), musterd.register("failing_long", port=2):
        wait_until("both", lambda: router.pick("failing_long", wait=30) and len(router.targets("failing_long")) == 2)
        router.pick("failing_long").failed()
        assert router.pick("failing_long").port == 1
        router.pick("failing_long").failed(for_=600)
        assert router.pick("failing_long").port == 2
