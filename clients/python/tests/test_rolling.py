"""Instances that are restarted, killed and cut off while a process calls them: what a caller notices."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import musterd
import pytest
from harness import Daemon, Script, free_port, wait_until
from musterd.httpx import Transport

SERVICE = """
import asyncio, os
import musterd.fastapi
from fastapi import FastAPI
port = int(os.environ["PORT"])
app = FastAPI(lifespan=musterd.fastapi.lifespan("rolling", ip="127.0.0.1", port=port, ttl=6, grace=3.0))
@app.get("/")
async def ask() -> int:
    await asyncio.sleep(0.02)
    return os.getpid()
"""

# 200 requests a second, half of them by httpx and half by the router's own call, until it is told to stop.
CALLER = """
import asyncio, sys, threading
import httpx, musterd, musterd.httpx
router = musterd.Router(policy="random")
failed, served, stop = [], set(), threading.Event()

def listen():
    sys.stdin.readline()
    stop.set()

async def call(target):
    reader, writer = await asyncio.open_connection(target.ip, target.port)
    try:
        writer.write(b"GET / HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n")
        answer = await reader.read()
        if b" 200 " not in answer.split(b"\\r\\n")[0]:
            raise ConnectionResetError(repr(answer))
        return int(answer.rsplit(b"\\r\\n", 1)[1])
    finally:
        writer.close()

async def one(client, number):
    try:
        if number % 2:
            served.add(int((await client.get("http://rolling.muster/")).text))
        else:
            # At most one attempt after the connection was made: a request that was sent is not repeated here either.
            served.add(await router.arun("rolling", call, retry_on=(ConnectionRefusedError,)))
    except Exception as error:
        failed.append(repr(error))

async def main():
    threading.Thread(target=listen, daemon=True).start()
    tasks, number = set(), 0
    async with httpx.AsyncClient(transport=musterd.httpx.AsyncTransport(router, wait=30), timeout=60) as client:
        while not stop.is_set():
            number += 1
            tasks.add(asyncio.create_task(one(client, number)))
            if number == 400:
                print("calling", flush=True)
            await asyncio.sleep(0.005)
        await asyncio.gather(*tasks)
    print(number, len(served), len(failed), failed[:3], flush=True)

asyncio.run(main())
"""


def serve(directory: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "uvicorn", "rolling_service:app", "--port", str(port), "--log-level", "warning"]
    return subprocess.Popen(command, cwd=directory, env={**os.environ, "PORT": str(port)})


def pids(daemon: Daemon) -> set[int]:
    return {one.pid for one in daemon.instances("rolling") if one.status == "alive"}


def test_rolling_restart_of_three_services_under_load_fails_no_request(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "rolling_service.py").write_text(SERVICE)
    ports = [free_port() for _ in range(3)]
    services = [serve(tmp_path, port) for port in ports]
    try:
        wait_until("all serve", lambda: pids(daemon) == {one.pid for one in services})
        with Script(CALLER, daemon.address) as caller:
            assert caller.line() == "calling"
            for number, port in enumerate(ports):
                services[number].terminate()
                assert services[number].wait(60) == -signal.SIGTERM
                services[number] = serve(tmp_path, port)
                wait_until("it serves again", lambda: pids(daemon) == {one.pid for one in services})
            caller.tell()
            requests, served, failed = caller.line().split(" ", 2)
            assert failed == "0 []", failed
            # The three that began, and some of those that followed.
            assert int(requests) > 400 and int(served) >= 4
    finally:
        for one in services:
            one.kill()
            one.wait()


def test_service_is_alive_only_once_its_port_accepts_connections(daemon: Daemon) -> None:
    import asyncio

    import musterd.fastapi

    async def main() -> None:
        port = free_port()
        lifespan = musterd.fastapi.lifespan("listening", ip="127.0.0.1", port=port)
        async with lifespan(None) as state:
            registration = state["registration"]
            assert registration.status is musterd.Status.STARTING
            assert await asyncio.to_thread(daemon.statuses, "listening") == [("starting", "")]
            server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
            async with server:
                is_alive = lambda: daemon.statuses("listening") == [("alive", "")]
                await asyncio.to_thread(wait_until, "it is alive", is_alive)
                assert registration.status == musterd.Status("alive")

    asyncio.run(main())


ECHO = """
import os, socketserver, sys, musterd
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(64): self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    daemon_threads, allow_reuse_address = True, True
server = Server(("127.0.0.1", 0), Handler)
registration = musterd.register(sys.argv[1], ip="127.0.0.1", port=server.server_address[1], ttl=6)
print("ready", flush=True)
server.serve_forever()
"""


@contextlib.contextmanager
def echoes(name: str, daemon: Daemon, count: int) -> Iterator[dict[int, Script]]:
    """Servers in processes of their own, by process id."""
    with contextlib.ExitStack() as stack:
        scripts = [stack.enter_context(Script(ECHO, daemon.address, name)) for _ in range(count)]
        for script in scripts:
            assert script.line() == "ready"
        yield {script.process.pid: script for script in scripts}
        for script in scripts:
            script.process.kill()


def echo(target: musterd.Target) -> int:
    with socket.create_connection((target.ip, target.port), 60) as connection:
        connection.sendall(b"x")
        if connection.recv(1) != b"x":
            raise ConnectionResetError
    return target.port


def test_killed_best_instance_costs_no_call_and_is_not_picked_again(daemon: Daemon) -> None:
    router = musterd.Router(exclude_for=600)
    with echoes("echoes", daemon, 3) as servers:
        wait_until("all are known", lambda: router.pick("echoes", wait=60) and len(router.targets("echoes")) == 3)
        best = router.pick("echoes")
        [pid] = [one.pid for one in daemon.instances("echoes") if one.port == best.port]
        stop, failed, calls = threading.Event(), [], [0] * 4

        def load(number: int) -> None:
            while not stop.is_set():
                try:
                    router.run("echoes", echo)
                    calls[number] += 1
                except Exception as error:
                    failed.append(error)

        threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        wait_until("calls are made", lambda: min(calls) > 50)
        servers[pid].process.kill()
        servers[pid].process.wait()
        after = list(calls)
        wait_until("calls go on", lambda: all(now > before + 50 for now, before in zip(calls, after, strict=True)))
        assert router.pick("echoes").port != best.port
        stop.set()
        for thread in threads:
            thread.join(60)
        assert failed == [] and router.run("echoes", echo) != best.port


@contextlib.contextmanager
def unreachable() -> Iterator[int]:
    """A port at which packets that ask for a connection are dropped: nothing accepts, and the backlog is full."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        with contextlib.suppress(TimeoutError):
            while True:
                stack.enter_context(socket.create_connection(server.getsockname(), 0.3))
        yield server.getsockname()[1]


def test_address_that_drops_packets_is_passed_over_and_one_that_hangs_is_not_asked_twice(daemon: Daemon) -> None:
    router = musterd.Router(exclude_for=600)
    with echoes("echo", daemon, 1), unreachable() as port:
        [live] = daemon.instances("echo")
        # The longest serving one is asked first.
        with musterd.register("passed", ip="127.0.0.1", port=port), musterd.register("passed", ip="127.0.0.1", port=live.port):
            both = lambda: router.pick("passed", wait=30) and len(router.targets("passed")) == 2
            wait_until("both are known", both)
            timeout = httpx.Timeout(60, connect=0.3)
            asked: list[int] = []

            class Inner(httpx.HTTPTransport):
                def handle_request(self, request: httpx.Request) -> httpx.Response:
                    asked.append(request.url.port or 0)
                    if request.url.port == live.port:
                        return httpx.Response(200, text="served")
                    return super().handle_request(request)

            with httpx.Client(transport=Transport(router, Inner()), timeout=timeout) as client:
                assert [client.get("http://passed.muster/").text for _ in range(2)] == ["served"] * 2
            assert asked == [port, live.port, live.port]
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        port = hanging.getsockname()[1]
        with musterd.register("hanging", ip="127.0.0.1", port=port), musterd.register("hanging", ip="127.0.0.1", port=port):
            # The kernel accepts for it: the request was sent, so it is not repeated.
            with httpx.Client(transport=Transport(router, wait=30), timeout=0.3) as client:
                with pytest.raises(httpx.ReadTimeout):
                    client.get("http://hanging.muster/")
            # A call that may be repeated is.
            ports: list[int] = []

            def ask(target: musterd.Target) -> None:
                ports.append(target.port)
                with socket.create_connection((target.ip, target.port), 60) as connection:
                    connection.settimeout(0.2)
                    connection.recv(1)

            with pytest.raises(TimeoutError):
                router.run("hanging", ask, attempts=2)
            assert len(ports) == 2
