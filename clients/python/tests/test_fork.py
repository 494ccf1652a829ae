"""Processes: forks with and without exec, multiprocessing, and the end of the interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from harness import Daemon, Proxy, Script, run, wait_until


def test_child_of_a_fork_has_nothing_of_its_parent_and_registers_itself(daemon: Daemon) -> None:
    text = """
        import os, musterd
        router = musterd.Router()
        parent = musterd.register("forking", port=1)
        lease = parent.require()
        assert router.pick("forking", wait=30).port == 1
        child = os.fork()
        if child == 0:
            assert parent.state is musterd.State.FOREIGN
            for refused in (lambda: parent.set_status(musterd.Status.DRAINING), lambda: parent.lease, parent.events):
                try: refused()
                except musterd.ForeignProcess: pass
                else: os._exit(3)
            try: parent.require()
            except musterd.LeaseLost: pass
            else: os._exit(4)
            parent.close()
            with musterd.register("forking_child", port=2) as own:
                assert own.state is musterd.State.HELD
                assert router.pick("forking_child", wait=30).port == 2
            del parent
            raise SystemExit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert parent.require() == lease and router.pick("forking", wait=30).lease_id == lease
        print("good")
    """
    assert run(text, daemon.address).strip() == "good"
    assert daemon.instances("forking") == [] and daemon.instances("forking_child") == []


def test_child_that_is_killed_becomes_suspect_and_its_parent_does_not(daemon: Daemon) -> None:
    text = """
        import os, signal, sys, musterd
        parent = musterd.register("family", port=1, ttl=3)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            own = musterd.register("family", port=2, ttl=3)
            os.write(writer, b"x")
            while True: signal.pause()
        os.read(reader, 1)
        print(child, flush=True)
        sys.stdin.readline()
        print(parent.require(), flush=True)
    """
    with Script(text, daemon.address) as script:
        os.kill(int(script.line()), signal.SIGKILL)
        suspects = wait_until("one is suspect", lambda: [one for one in daemon.instances("family") if one.suspect])
        assert [one.port for one in suspects] == [2]
        script.tell()
        assert int(script.line()) > 0
        assert script.end()[0] == 0


def test_child_holds_no_connection_of_its_parent(daemon: Daemon) -> None:
    # While it held one, the daemon would not see that the parent was killed.
    text = """
        import os, musterd
        def sockets():
            links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
            return sum(os.readlink(link).startswith("socket:") for link in links if os.path.islink(link))
        musterd.register("connected", port=1)
        musterd.Router().pick("connected", wait=30)
        mine = sockets()
        child = os.fork()
        if child == 0:
            # Those of the parent's event queue stay.
            os._exit(sockets())
        assert mine >= 4, mine
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), musterd.resolve("connected").target.port)
    """
    assert run(text, daemon.address).split() == ["2", "1"]


def test_programs_that_are_started_change_nothing(daemon: Daemon) -> None:
    text = """
        import os, subprocess, sys, musterd
        registration = musterd.register("starting", port=1)
        lease = registration.require()
        for _ in range(20):
            subprocess.run([sys.executable, "-c", "import os; print(len(os.listdir('/proc/self/fd')))"], check=True,
                           stdout=subprocess.DEVNULL)
        pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "pass"], os.environ)
        os.waitpid(pid, 0)
        print(registration.require() == lease)
    """
    assert run(text, daemon.address).strip() == "True"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_workers_register_and_leave(daemon: Daemon, method: str, tmp_path: Path) -> None:
    text = """
        import multiprocessing, sys
        import musterd
        def work(number, router):
            registration = musterd.register("workers_" + sys.argv[1], port=number)
            return registration.require(), router.pick("parent_" + sys.argv[1], wait=30).port
        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            parent, router = musterd.register("parent_" + sys.argv[1], port=9), musterd.Router()
            lease = parent.require()
            with context.Pool(3) as pool:
                found = pool.starmap(work, [(number, router) for number in range(1, 7)], chunksize=1)
                pool.close()
                pool.join()
            assert len({lease for lease, _ in found}) == 6 and {port for _, port in found} == {9}
            assert parent.require() == lease
            print("good")
    """
    # spawn and forkserver import the main program, so it is a file.
    path = tmp_path / "workers.py"
    path.write_text(textwrap.dedent(text))
    environment = {**os.environ, "MUSTERD_ADDR": daemon.address}
    done = subprocess.run([sys.executable, str(path), method], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "good"), done.stderr
    wait_until("all have left", lambda: daemon.instances(f"workers_{method}") == [])


def exits(daemon: Daemon, times: int) -> None:
    text = """
        import asyncio, sys, threading, musterd
        name = sys.argv[1]
        router = musterd.Router()
        held = [musterd.register(name, port=port, ttl=2, stall_after=1.0, wait=port < 3) for port in range(1, 6)]
        def load():
            while True:
                try:
                    router.pick(name, wait=1)
                    musterd.resolve(name)
                    held[0].require()
                except musterd.Error:
                    pass
        def change():
            while True:
                try: held[1].drain(); held[1].ready()
                except musterd.Error: pass
        def listen():
            for event in held[0].events(): pass
        for work in (load, load, change, listen):
            threading.Thread(target=work, daemon=True).start()
        held[0].tick()
        router.pick(name, wait=30)
    """
    for number in range(times):
        with Script(text, daemon.address, f"exits_{number % 5}") as script:
            code, output, errors = script.end(60)
            assert code == 0 and "Fatal" not in errors and "panicked" not in errors, f"{code}\n{output}\n{errors}"


def test_interpreter_ends_under_load_without_a_crash_or_a_hang(daemon: Daemon) -> None:
    exits(daemon, 10)


@pytest.mark.slow
def test_interpreter_ends_100_times_under_load_without_a_crash_or_a_hang(daemon: Daemon) -> None:
    exits(daemon, 100)


def test_interpreter_ends_while_no_daemon_answers(daemon: Daemon) -> None:
    text = """
        import sys, musterd
        registration = musterd.register("alone", port=1, ttl=2)
        print("ready", flush=True)
        sys.stdin.readline()
    """
    proxy = Proxy(daemon.address)
    with Script(text, proxy.address) as script:
        assert script.line() == "ready"
        proxy.cut()
        script.tell()
        assert script.end()[0] == 0
    proxy.join()


def test_signal_drains_waits_and_ends_as_it_would_have_without(daemon: Daemon) -> None:
    text = """
        import signal, musterd
        registration = musterd.register("draining", port=1)
        registration.drain_on(signal.SIGTERM, grace=600)
        print("ready", flush=True)
        while True: signal.pause()
    """
    with Script(text, daemon.address) as script:
        assert script.line() == "ready"
        script.process.terminate()
        wait_until("it drains, and says why", lambda: daemon.statuses("draining") == [("draining", "received SIGTERM")])
        assert script.process.poll() is None
        # The second one does not wait for the grace.
        script.process.terminate()
        assert script.end()[0] == -signal.SIGTERM


def test_signal_calls_the_handler_that_was_there_after_the_grace(daemon: Daemon) -> None:
    text = """
        import signal, sys, musterd
        registration = musterd.register("chained", port=1)
        def stop(number, frame):
            print(registration.state.value, flush=True)
            sys.exit(5)
        signal.signal(signal.SIGTERM, stop)
        registration.drain_on(signal.SIGTERM, signal.SIGINT, grace=0.2)
        print("ready", flush=True)
        while True: signal.pause()
    """
    with Script(text, daemon.address) as script:
        assert script.line() == "ready"
        script.process.terminate()
        code, output, errors = script.end()
        assert (code, output.strip()) == (5, "held"), errors
    assert daemon.instances("chained") == []
