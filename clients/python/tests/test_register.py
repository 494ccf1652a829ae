"""Registering, changing and leaving, as an application sees them."""

from __future__ import annotations

import asyncio
import pickle
import re
import socket
import threading
import uuid
from pathlib import Path

import musterd
import pytest
from harness import Daemon, Proxy, run, wait_until
from musterd import State, Status, errors


def test_register_blocks_until_the_lease_is_held(daemon: Daemon) -> None:
    registration = musterd.register("one_liner", port=8000, ttl=6, labels={"zone": "a"}, version="1.2", node_id="n1")
    assert registration.require() == registration.lease_id
    [listed] = daemon.instances("one_liner")
    assert (listed.lease_id, listed.port, listed.ip) == (registration.lease_id, 8000, "127.0.0.1")
    assert (listed.labels, listed.version, listed.node_id) == ({"zone": "a"}, "1.2", "n1")
    lease = registration.lease
    assert lease is not None and lease.ttl == 6 and 0 < registration.remaining <= 6
    registration.close()
    assert daemon.instances("one_liner") == [] and registration.state is State.ENDED
    registration.close()


def test_registration_that_is_not_kept_stays_registered(daemon: Daemon) -> None:
    import gc

    identity = musterd.register("not_kept").instance_id
    gc.collect()
    assert [one.instance_id for one in daemon.instances("not_kept")] == [str(identity)]


def test_context_manager_leaves_at_the_end_and_after_an_error(daemon: Daemon) -> None:
    with pytest.raises(ZeroDivisionError), musterd.register("context", port=1) as registration:
        assert len(daemon.instances("context")) == 1
        raise ZeroDivisionError
    assert daemon.instances("context") == []
    with pytest.raises(musterd.LeaseLost) as lost:
        registration.require()
    assert lost.value.lost is not None and lost.value.lost.reason is musterd.Reason.CLOSED


def test_async_context_manager_and_await_do_not_block_the_loop(daemon: Daemon) -> None:
    async def main() -> None:
        async with musterd.register("in_loop", port=1) as registration:
            assert registration.require() > 0
            await registration.aset_status(Status.DRAINING)
        other = await musterd.register("in_loop", port=2)
        assert other.state is State.HELD
        await other.aclose()

    asyncio.run(main())
    assert daemon.instances("in_loop") == []


def test_two_loops_in_one_process_use_the_same_client(daemon: Daemon) -> None:
    outcomes: list[int] = []

    async def hold(port: int) -> None:
        async with musterd.register("two_loops", port=port) as registration:
            for _ in range(20):
                outcomes.append(registration.require())
                target = await router.apick("two_loops", wait=30)
                assert target.port in (1, 2)

    router = musterd.Router()
    threads = [threading.Thread(target=lambda port=port: asyncio.run(hold(port))) for port in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(outcomes) == 40 and len(set(outcomes)) == 2


def test_decorator_registers_functions_and_coroutines(daemon: Daemon) -> None:
    @musterd.registered("decorated", port=1)
    def main(registration: musterd.Registration, word: str) -> tuple[int, str]:
        return registration.require(), word

    @musterd.registered("decorated", port=2)
    async def in_loop(registration: musterd.Registration) -> int:
        return registration.require()

    assert main("word")[1] == "word" and main("word")[0] > 0
    assert asyncio.run(in_loop()) > 0
    assert daemon.instances("decorated") == []


def test_status_changes_reach_the_registry(daemon: Daemon) -> None:
    with musterd.register("changing", port=1, status=Status.STARTING) as registration:
        assert [one.status for one in daemon.instances("changing")] == ["starting"]
        registration.ready()
        assert [one.status for one in daemon.instances("changing")] == ["alive"]
        registration.drain()
        assert [one.status for one in daemon.instances("changing")] == ["draining"]
        with pytest.raises(musterd.InvalidField):
            registration.set_status(Status.DEAD)


def test_reason_of_a_status_is_listed_until_it_is_replaced(daemon: Daemon) -> None:
    with musterd.register("reasons", port=1) as registration:
        lease = registration.require()
        assert daemon.statuses("reasons") == [("alive", "")]
        registration.drain("new disk")
        assert daemon.statuses("reasons") == [("draining", "new disk")]
        registration.ready("disk is in")
        assert daemon.statuses("reasons") == [("alive", "disk is in")]
        target = musterd.Router().pick("reasons", wait=30)
        since = target.status_since
        assert target.status_reason == "disk is in" and since is not None and since.tzinfo is not None
        registration.update(version="2")
        assert daemon.statuses("reasons") == [("alive", "disk is in")] and registration.require() == lease
        asyncio.run(registration.aset_status(Status.DRAINING, reason="bye"))
        assert daemon.statuses("reasons") == [("draining", "bye")]
        with pytest.raises(musterd.InvalidField):
            registration.drain("x" * 300)


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("ttl", {"ttl": 1}),
        ("ttl", {"ttl": -1.0}),
        ("ip", {"ip": "host"}),
        ("port", {"port": 0}),
        ("port", {"port": 70_000}),
        ("on_lost", {"on_lost": "other"}),
        ("daemons", {"daemons": ["a b"]}),
    ],
)
def test_bad_argument_is_refused_with_its_field(daemon: Daemon, field: str, settings: dict[str, object]) -> None:
    with pytest.raises(musterd.InvalidField) as refused:
        musterd.register("refused", **settings)  # type: ignore[arg-type]
    error = refused.value
    assert error.violations[0].field == field and error.reason == "INVALID_FIELD" and not error.retryable
    assert isinstance(error, ValueError) and error.violations[0].description in str(error)
    assert daemon.instances("refused", "--all-statuses") == []


def test_refusals_have_types_of_their_own(daemon: Daemon) -> None:
    with pytest.raises(musterd.EpochFenced) as fenced:
        musterd.register("refused", cluster_epoch=uuid.uuid4())
    assert not fenced.value.retryable
    with musterd.register("taken", port=1) as registration, pytest.raises(musterd.InstanceIdTaken):
        musterd.register("taken_by_another", port=2, instance_id=registration.instance_id)


def test_reasons_with_types_of_their_own_are_those_of_the_protocol() -> None:
    protocol = Path(__file__).resolve().parents[3] / "proto/muster/v1/error.proto"
    reasons = set(re.findall(r"ERROR_REASON_(\w+) = ", protocol.read_text()))
    # What only a router says.
    assert set(errors._BY_REASON) - reasons == {"STALE"}
    for reason, kind in errors._BY_REASON.items():
        error = errors.from_native((reason, "text", False, None, [("field", "why")], False, None))
        assert type(error) is kind and (error.reason, error.violations[0].field) == (reason, "field")
    assert type(errors.from_native(("OVERLOADED", "text", True, 2.0, [], False, None))) is musterd.Unavailable
    assert type(errors.from_native(("INTERNAL", "text", False, None, [], True, "d"))) is musterd.Error


def test_registry_that_is_not_there_is_unavailable_and_nothing_is_kept() -> None:
    with pytest.raises(musterd.Unavailable) as error:
        musterd.register("nowhere", daemons=["127.0.0.1:1"], timeout=0.5)
    assert error.value.retryable and error.value.daemon == "http://127.0.0.1:1"
    copy = pickle.loads(pickle.dumps(error.value))
    assert (copy.reason, copy.daemon, str(copy)) == (error.value.reason, error.value.daemon, str(error.value))


def test_registration_without_waiting_catches_up_when_a_daemon_comes(daemon: Daemon) -> None:
    proxy = Proxy(daemon.address)
    proxy.cut()
    registration = musterd.register("offline", daemons=[proxy.address], wait=False)
    assert registration.state is State.PENDING
    with pytest.raises(musterd.Unavailable):
        registration.wait_held(0.1)
    with pytest.raises(musterd.LeaseLost) as none:
        registration.require()
    assert none.value.lost is None
    proxy.join()
    registration.wait_held(60)
    assert registration.require() > 0
    registration.close()


def test_registration_is_not_pickled_and_says_what_to_do(daemon: Daemon) -> None:
    with musterd.register("pickled") as registration, pytest.raises(TypeError, match="register in the process"):
        pickle.dumps(registration)


def test_user_agent_names_the_package() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{server.getsockname()[1]}"
    registration = musterd.register("agent", daemons=[address], wait=False)
    connection, _ = server.accept()
    connection.settimeout(60)
    # Empty SETTINGS: the client then sends its request, whose headers have the user agent in Huffman code.
    connection.sendall(b"\0\0\0\4\0\0\0\0\0")
    data = b""
    while huffman("musterd-python/") not in data:
        part = connection.recv(65536)
        assert part, data
        data += part
    connection.close()
    registration.close()


def huffman(text: str) -> bytes:
    """The beginning of a text in HPACK's Huffman code, in whole bytes."""
    codes = {"m": "101001", "u": "101101", "s": "01000", "t": "01001", "e": "00101", "r": "101100", "d": "100100"}
    codes |= {"-": "010110", "p": "101011", "y": "1111010", "h": "100111", "o": "00111", "n": "101010", "/": "011000"}
    bits = "".join(codes[letter] for letter in text)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits) - 7, 8))


def test_process_that_ends_gives_its_leases_back(daemon: Daemon) -> None:
    run("import musterd; musterd.register('ending', port=1); print('bye')", daemon.address)
    assert daemon.instances("ending") == []


def test_import_is_light(daemon: Daemon) -> None:
    text = """
        import sys, musterd
        heavy = {"asyncio", "grpc", "google.protobuf", "httpx", "fastapi", "ray"} & set(sys.modules)
        print(sorted(heavy))
    """
    assert run(text, daemon.address).strip() == "[]"


def test_many_cycles_leave_no_threads_descriptors_or_registrations(daemon: Daemon) -> None:
    cycles(daemon, 300)


@pytest.mark.slow
def test_10000_cycles_leave_no_threads_descriptors_or_registrations(daemon: Daemon) -> None:
    cycles(daemon, 10_000)


def cycles(daemon: Daemon, count: int) -> None:
    text = """
        import os, sys, resource, musterd
        def size(): return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        def pages(): return int(open("/proc/self/statm").read().split()[1])
        count = int(sys.argv[1])
        for _ in range(50): musterd.register("cycles", port=1).close()
        before, memory = size(), pages()
        for _ in range(count): musterd.register("cycles", port=1).close()
        from musterd import _process
        process = _process.current()
        print(size() == before, len(process.registrations), len(process._calls), (pages() - memory) * 4)
    """
    output = run(text, daemon.address, str(count), within=1800).split()
    assert output[:3] == ["True", "0", "0"], output
    assert int(output[3]) < 20_000, f"{output[3]} KiB more"
    wait_until("all are gone", lambda: daemon.instances("cycles") == [])
