"""What becomes of a lease while Python is stuck, and while daemons are killed, paused, cut off and rotated."""

from __future__ import annotations

import asyncio
import random
import signal
import threading

import musterd
import pytest
from harness import Daemon, Proxy, Registry, Script, Watch, run, wait_until
from musterd import Doubtful, Held, Lost, Reason, Rejoined, State

# Holds the GIL in one call of C code for about as many seconds as it is told, and prints how long it was.
HOLD = """
import re, sys, time
def hold(seconds):
    size, took = 20, 0.0
    while took < seconds:
        size += 1
        began = time.monotonic()
        re.match("(a+)+$", "a" * size + "b")
        took = time.monotonic() - began
    return took
"""


def held_gil(daemon: Daemon, name: str, seconds: float, ttl: float) -> None:
    """A process holds the GIL; a watch of its name, from the snapshot on, must not see it suspect or gone."""
    text = HOLD + """
import musterd
registration = musterd.register(sys.argv[1], port=1, ttl=float(sys.argv[3]))
states = registration.events()
print(registration.lease_id, flush=True)
took = hold(float(sys.argv[2]))
assert took > registration.lease.ttl * 2 / 3, took
lease = registration.require()
seen = []
while (event := states.get(0.2)) is not None:
    if isinstance(event, musterd.Lost): seen.append(event)
print(lease, [type(event).__name__ for event in seen])
"""
    with Script(text, daemon.address, name, str(seconds), str(ttl)) as script:
        lease = script.line()
        with Watch(name, daemon) as watch:
            header, snapshot = watch.line(), watch.line()
            assert "LEASE" in header and f" {lease} " in snapshot
            assert script.line() == f"{lease} []", "the lease was lost"
            code, _, errors = script.end(600)
            assert code == 0, errors
            changes = watch.stop()
            assert "SUSPECT" not in changes, changes


def test_held_gil_loses_no_beat(daemon: Daemon) -> None:
    held_gil(daemon, "held_gil", 5.0, 4.0)


@pytest.mark.slow
def test_gil_held_for_20_s_loses_no_beat(daemon: Daemon) -> None:
    held_gil(daemon, "held_gil_long", 20.0, 6.0)


def test_blocked_loop_loses_no_beat(daemon: Daemon) -> None:
    async def main() -> None:
        async with musterd.register("blocked_loop", port=1, ttl=4) as registration:
            lease, events = registration.require(), registration.events()
            # The test blocks the loop on purpose, for longer than the TTL.
            threading.Event().wait(6)
            assert registration.require() == lease
            # On a loaded machine a beat may be late, but none is lost.
            while (event := events.get(0)) is not None:
                assert not isinstance(event, Lost)

    asyncio.run(main())


def test_stalled_python_is_drained_and_alive_again(daemon: Daemon) -> None:
    text = HOLD + """
import musterd
registration = musterd.register("stalled", port=1, ttl=30, stall_after=0.4)
events = registration.events()
print("ready", flush=True)
hold(3)
print([type(events.get(30)).__name__ for _ in range(2)], flush=True)
sys.stdin.readline()
"""
    with Script(text, daemon.address) as script:
        assert script.line() == "ready"
        # At the latest while the longest of its calls lasts.
        why = "Python has made no progress for 0.4 s"
        wait_until("it is drained, and says why", lambda: daemon.statuses("stalled") == [("draining", why)])
        assert "Stalled" in script.line()
        wait_until("it is alive", lambda: daemon.statuses("stalled") == [("alive", "")])


def test_blocked_loop_is_drained_and_alive_again(daemon: Daemon) -> None:
    async def main() -> None:
        async with musterd.register("stalled_loop", port=1, ttl=30, stall_after=0.5) as registration:
            events = registration.events()
            await asyncio.sleep(0)
            # The test blocks the loop on purpose, for as long as it takes.
            assert isinstance(events.get(60), musterd.Stalled)
            assert [one.status for one in daemon.instances("stalled_loop")] == ["draining"]
            assert isinstance(await asyncio.wait_for(anext(events), 60), musterd.Resumed)
            assert [one.status for one in daemon.instances("stalled_loop")] == ["alive"]

    asyncio.run(main())


def test_manual_tick_is_the_only_progress_that_counts(daemon: Daemon) -> None:
    with musterd.register("ticking", port=1, ttl=30, stall_after=0.5, tick="manual") as registration:
        events = registration.events()
        assert isinstance(events.get(60), musterd.Stalled)
        registration.tick()
        assert isinstance(events.get(60), musterd.Resumed)


def test_stalled_instance_that_loses_its_lease_rejoins_and_is_drained_again(daemon: Daemon) -> None:
    with musterd.register("stalled_twice", port=1, ttl=3, stall_after=0.5, tick="manual") as registration:
        events, lease = registration.events(), registration.require()
        assert isinstance(events.get(60), musterd.Stalled)
        expire(daemon, registration)
        kinds = [type(events.get(60)) for _ in range(2)]
        assert kinds == [Lost, Rejoined] and registration.require() > lease
        wait_until("it is drained", lambda: [one.status for one in daemon.instances("stalled_twice")] == ["draining"])
        registration.tick()
        assert isinstance(events.get(60), musterd.Resumed)
        wait_until("it is alive", lambda: [one.status for one in daemon.instances("stalled_twice")] == ["alive"])


def test_lease_is_lost_by_our_own_clock_while_no_daemon_answers(daemon: Daemon) -> None:
    proxy = Proxy(daemon.address)
    calls: list[Lost] = []
    with musterd.register("cut_off", daemons=[proxy.address], ttl=2, on_lost=calls.append) as registration:
        lease, events = registration.require(), registration.events()
        proxy.cut()
        doubtful, lost = events.get(60), events.get(60)
        assert isinstance(doubtful, Doubtful) and doubtful.lease.lease_id == lease
        assert lost == Lost(Reason.DEADLINE, lease)
        assert registration.state is State.LOST and registration.lease_id is None and registration.remaining == 0
        with pytest.raises(musterd.LeaseLost) as refused:
            registration.require()
        assert refused.value.lost == lost
        assert registration.trouble is not None and registration.trouble.retryable
        proxy.join()
        rejoined = events.get(60)
        assert isinstance(rejoined, Rejoined) and rejoined.lease.instance_id == registration.instance_id
        wait_until("the callback was called", lambda: calls == [lost])
        assert registration.require() == rejoined.lease.lease_id and registration.trouble is None


def test_callback_of_a_loss_may_use_the_registration(daemon: Daemon) -> None:
    done = threading.Event()

    def on_lost(lost: Lost) -> None:
        registration.close()
        done.set()

    registration = musterd.register("callback", port=1, ttl=2, on_lost=on_lost)
    expire(daemon, registration)
    assert done.wait(60)


def expire(daemon: Daemon, registration: musterd.Registration) -> None:
    """An operator ends the lease."""
    daemon.command("expire", str(registration.instance_id))


def test_lease_that_an_operator_ends_is_lost_and_rejoined(daemon: Daemon) -> None:
    with musterd.register("expired", port=1, ttl=2, labels={"a": "b"}) as registration:
        lease, identity = registration.require(), registration.instance_id
        waiting = Waiting(registration)
        expire(daemon, registration)
        assert waiting.result() == Lost(Reason.OPERATOR, lease)
        wait_until("it has rejoined", lambda: registration.state is State.HELD)
        [listed] = daemon.instances("expired")
        assert (listed.instance_id, listed.labels) == (str(identity), {"a": "b"}) and listed.lease_id > lease


def test_lease_that_another_caller_gives_back_is_deregistered_and_rejoined(daemon: Daemon) -> None:
    with musterd.register("deregistered", port=1, ttl=2) as registration:
        lease, waiting = registration.require(), Waiting(registration)
        daemon.command("deregister", str(registration.instance_id))
        assert waiting.result() == Lost(Reason.DEREGISTERED, lease)
        wait_until("it has rejoined", lambda: registration.state is State.HELD)
        assert registration.require() > lease


def test_attributes_that_were_changed_keep_the_lease_and_survive_a_rejoin(daemon: Daemon) -> None:
    with musterd.register("updated", port=1, ttl=2, labels={"a": "1"}, version="1", actor_name="x") as registration:
        lease = registration.require()
        registration.update(labels={"b": "2"}, version="2")
        [listed] = daemon.instances("updated")
        assert (listed.lease_id, listed.labels, listed.version) == (lease, {"b": "2"}, "2")
        waiting = Waiting(registration)
        expire(daemon, registration)
        assert waiting.result().reason is Reason.OPERATOR
        wait_until("it has rejoined", lambda: registration.state is State.HELD)
        [listed] = daemon.instances("updated")
        assert listed.lease_id > lease and (listed.labels, listed.version) == ({"b": "2"}, "2")
        with pytest.raises(musterd.InvalidField):
            registration.update(version="x" * 300)
        asyncio.run(registration.aupdate(version="3"))
        assert [one.version for one in daemon.instances("updated")] == ["3"]


def test_changes_of_status_and_of_the_daemon_are_events(
    pair: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random.SystemRandom, "sample", lambda self, names, count: list(names))
    killed, other = pair
    with musterd.register("telling", port=1, ttl=6, daemons=[killed.address, other.address]) as registration:
        events = registration.events()
        registration.drain("a test")
        registration.ready()
        told = [event for event in (events.get(60), events.get(60)) if isinstance(event, musterd.StatusChanged)]
        assert [(event.status.value, event.reason) for event in told] == [("draining", "a test"), ("alive", "")]
        renewed_twice(registration)
        killed.signal(signal.SIGKILL)
        event = events.get(60)
        while event is not None and not isinstance(event, musterd.DaemonChanged):
            event = events.get(60)
        assert event == musterd.DaemonChanged(f"http://{other.address}")


class Waiting:
    """A thread that waits for a loss."""

    def __init__(self, registration: musterd.Registration) -> None:
        self._events = registration.events()

    def result(self) -> Lost:
        while event := self._events.get(60):
            if isinstance(event, Lost):
                return event
        raise AssertionError("no loss")


def test_registration_that_stops_on_loss_stays_without_a_lease(daemon: Daemon) -> None:
    registration = musterd.register("stopping", port=1, ttl=2, on_lost="stop")
    events = registration.events()
    expire(daemon, registration)
    kinds = [type(event) for event in events]
    assert kinds[-2:] == [Lost, musterd.Ended]
    assert registration.state is State.ENDED and daemon.instances("stopping") == []
    registration.close()


def test_rotated_epoch_is_fenced_and_rejoined_unless_it_was_named(daemon: Daemon) -> None:
    free = musterd.register("rotated", port=1, ttl=2)
    assert free.lease is not None
    bound = musterd.register("rotated", port=2, ttl=2, cluster_epoch=free.lease.cluster_epoch)
    of_free, of_bound = Waiting(free), Waiting(bound)
    daemon.command("epoch", "rotate", "--force", "--reason", "a test")
    assert of_free.result().reason is Reason.FENCED and of_bound.result().reason is Reason.FENCED
    wait_until("it has rejoined", lambda: free.state is State.HELD)
    wait_until("it has ended", lambda: bound.state is State.ENDED)
    free.close()


def test_instance_id_that_is_taken_over_is_replaced(daemon: Daemon) -> None:
    with musterd.register("replaced", port=1, ttl=2) as registration:
        waiting, identity = Waiting(registration), registration.instance_id
        expire(daemon, registration)
        text = """
            import sys, uuid, musterd
            for _ in range(200):
                try: musterd.register("replaced", port=2, instance_id=uuid.UUID(sys.argv[1])); break
                except musterd.InstanceIdTaken: pass
        """
        # The first loss is the operator's; the process that takes the id wins or loses the race for it.
        assert waiting.result().reason is Reason.OPERATOR
        run(text, daemon.address, str(identity))
        wait_until("it holds a lease", lambda: registration.state is State.HELD)


def test_loss_ends_the_process_natively_while_the_gil_is_held(daemon: Daemon) -> None:
    text = HOLD + """
import signal, musterd
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
registration = musterd.register("exiting", ttl=2, on_lost="exit")
print("ready", flush=True)
sys.stdin.readline()
# One call of C code that would take days, and that does not handle signals, as matching does.
sum(range(10**14))
"""
    proxy = Proxy(daemon.address)
    with Script(text, proxy.address) as script:
        assert script.line() == "ready"
        script.tell()
        proxy.cut()
        code, output, errors = script.end()
        # Python never came to handle SIGTERM.
        assert (code, output) == (-signal.SIGKILL, ""), errors


def test_loss_lets_the_process_end_in_order_when_it_can(daemon: Daemon) -> None:
    text = """
        import signal, sys, musterd
        signal.signal(signal.SIGTERM, lambda *_: (print("handled", flush=True), sys.exit(7)))
        registration = musterd.register("exiting", ttl=6, on_lost="exit")
        print(registration.instance_id, flush=True)
        while True: signal.pause()
    """
    with Script(text, daemon.address) as script:
        daemon.command("expire", script.line())
        code, output, errors = script.end()
        assert (code, output.strip()) == (7, "handled"), errors


def renewed_twice(registration: musterd.Registration) -> None:
    """Waits for two beats of a lease with a TTL of 6 s: the second one was sent after this began."""
    for _ in range(2):
        wait_until("time has passed", lambda: registration.remaining < 5)
        wait_until("a beat", lambda: registration.remaining > 5)


def test_killed_and_paused_daemons_cost_no_lease(daemon: Daemon, registry: Registry) -> None:
    with registry.another() as killed, registry.another() as paused:
        addresses = [killed.address, paused.address, daemon.address]
        held = [musterd.register("moving", port=port, ttl=6, daemons=addresses) for port in range(1, 4)]
        leases, events = [one.require() for one in held], [one.events() for one in held]
        killed.signal(signal.SIGKILL)
        paused.signal(signal.SIGSTOP)
        # Each has got a beat acknowledged after both daemons were gone.
        for one in held:
            renewed_twice(one)
        assert [one.require() for one in held] == leases
        assert not any(isinstance(stream.get(0), Lost) for stream in events)
        for one in held:
            one.close()


def test_short_lease_beside_long_ones_is_renewed_in_time(daemon: Daemon) -> None:
    # The second long one comes while the pause of the first lasts, the short one while the pause of both does.
    held = [musterd.register("beside", port=port, ttl=ttl) for port, ttl in ((1, 300), (2, 300), (3, 6))]
    short, events = held[2], held[2].events()
    wait_until("time has passed", lambda: short.remaining < 5.5)
    wait_until("a beat", lambda: short.remaining > 5.5)
    assert events.get(0) is None
    for one in held:
        one.close()


def test_events_of_two_readers_are_the_same(daemon: Daemon) -> None:
    registration = musterd.register("two_readers", port=1, ttl=2, on_lost="stop")
    first, second = registration.events(), registration.events()
    expire(daemon, registration)
    assert list(first) == list(second) != []


def test_first_lease_is_an_event_and_a_held_state(daemon: Daemon) -> None:
    proxy = Proxy(daemon.address)
    proxy.cut()
    with musterd.register("first", daemons=[proxy.address], wait=False, ttl=6) as registration:
        events = registration.events()
        proxy.join()
        event = events.get(60)
        assert isinstance(event, Held) and event.lease == registration.lease


def test_loss_is_awaited_in_a_loop(daemon: Daemon) -> None:
    async def main() -> None:
        async with musterd.register("awaited", port=1, ttl=2) as registration:
            lease = registration.require()
            losing = asyncio.create_task(registration.lost())
            await asyncio.sleep(0)
            await asyncio.to_thread(expire, daemon, registration)
            assert await asyncio.wait_for(losing, 60) == Lost(Reason.OPERATOR, lease)

    asyncio.run(main())
