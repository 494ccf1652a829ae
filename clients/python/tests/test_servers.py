"""gunicorn and uvicorn with several workers, and daemons that ask for TLS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import musterd
import pytest
from harness import MUSTERD, Daemon, Registry, free_port, wait_until


def start(tmp_path: Path, files: dict[str, str], *command: str) -> subprocess.Popen[bytes]:
    for name, text in files.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    return subprocess.Popen([sys.executable, "-m", *command], cwd=tmp_path, stderr=subprocess.DEVNULL)


def pids(daemon: Daemon, name: str) -> set[int]:
    return {one.pid for one in daemon.instances(name)}


def test_workers_of_a_preloaded_gunicorn_register_and_leave(daemon: Daemon, tmp_path: Path) -> None:
    files = {
        # The parent holds a lease and a router at the fork.
        "app.py": """
            import musterd
            parent = musterd.register("gunicorn_parent", ttl=3)
            router = musterd.Router()
            assert router.pick("gunicorn_parent", wait=30)
            def application(environ, start_response):
                target = router.pick("gunicorn_parent", wait=30)
                start_response("200 OK", [])
                return [str(target.lease_id).encode()]
        """,
        "gunicorn.conf.py": """
            preload_app, workers = True, 4
            def post_fork(server, worker):
                import musterd
                worker.registration = musterd.register("gunicorn_worker", ttl=3)
        """,
    }
    port = free_port()
    server = start(tmp_path, files, "gunicorn", "--bind", f"127.0.0.1:{port}", "app:application")
    try:
        wait_until("four workers are registered", lambda: len(pids(daemon, "gunicorn_worker")) == 4)
        [parent] = daemon.instances("gunicorn_parent")
        assert parent.pid == server.pid and server.pid not in pids(daemon, "gunicorn_worker")
        answers = {httpx.get(f"http://127.0.0.1:{port}/", timeout=60).text for _ in range(12)}
        assert answers == {str(parent.lease_id)}
        killed = pids(daemon, "gunicorn_worker").pop()
        os.kill(killed, signal.SIGKILL)
        wait_until("it is replaced", lambda: len(pids(daemon, "gunicorn_worker") - {killed}) == 4)
        wait_until("it has expired", lambda: killed not in pids(daemon, "gunicorn_worker"))
        assert [one.lease_id for one in daemon.instances("gunicorn_parent")] == [parent.lease_id]
        server.terminate()
        assert server.wait(60) == 0
        wait_until("all have left", lambda: not pids(daemon, "gunicorn_worker") | pids(daemon, "gunicorn_parent"))
    finally:
        server.kill()
        server.wait()


def test_four_uvicorn_workers_register_and_leave(daemon: Daemon, tmp_path: Path) -> None:
    files = {
        "app.py": """
            import musterd.fastapi
            from fastapi import FastAPI
            app = FastAPI(lifespan=musterd.fastapi.lifespan("uvicorn_worker", ttl=6, grace=0.1))
        """
    }
    command = ("uvicorn", "app:app", "--workers", "4", "--port", str(free_port()), "--log-level", "error")
    server = start(tmp_path, files, *command)
    try:
        wait_until("four workers are registered", lambda: len(pids(daemon, "uvicorn_worker")) == 4)
        server.terminate()
        server.wait(60)
        wait_until("all have left", lambda: not pids(daemon, "uvicorn_worker"))
        dead = daemon.instances("uvicorn_worker", "--all-statuses")
        assert [one.death for one in dead] == ["deregistered"] * 4
    finally:
        server.kill()
        server.wait()


def test_daemon_with_tls_takes_clients_that_show_a_certificate(registry: Registry, tmp_path: Path) -> None:
    files = tmp_path / "tls"
    subprocess.run([MUSTERD, "security", "init", str(files), "--name", "localhost"], check=True, capture_output=True)
    flags = {"cert": "server.pem", "key": "server.key", "client-ca": "ca.pem"}
    server = [word for flag, name in flags.items() for word in (f"--tls-{flag}", f"{files}/{name}")]
    with registry.another(*server) as daemon:
        daemons = [f"https://{daemon.address}".replace("127.0.0.1", "localhost")]
        ca, cert, key = (f"{files}/{name}" for name in ("ca.pem", "operator.pem", "operator.key"))
        with musterd.register("with_tls", port=1, daemons=daemons, ca=ca, cert=cert, key=key) as registration:
            router = musterd.Router(daemons, ca=ca, cert=cert, key=key)
            assert router.pick("with_tls", wait=30).lease_id == registration.require()
        with pytest.raises(musterd.Unavailable) as refused:
            musterd.register("with_tls", daemons=daemons, timeout=1)
        assert "certificate" in str(refused.value), refused.value
        with pytest.raises(musterd.Unavailable):
            musterd.register("with_tls", daemons=daemons, ca=ca, timeout=1)


def test_token_in_a_file_is_sent_and_read_again_when_it_changes(registry: Registry, tmp_path: Path) -> None:
    files = tmp_path / "security"
    subprocess.run([MUSTERD, "security", "init", str(files), "--name", "localhost"], check=True, capture_output=True)
    with registry.another("--security-dir", str(files)) as daemon:
        daemons = [f"https://{daemon.address}".replace("127.0.0.1", "localhost")]
        ca, token = f"{files}/ca.pem", tmp_path / "token"
        token.write_text((files / "operator.token").read_text())
        with musterd.register("with_token", port=1, daemons=daemons, ca=ca, token_file=str(token)) as registration:
            router = musterd.Router(daemons, ca=ca, token_file=str(token))
            assert router.pick("with_token", wait=30).lease_id == registration.require()
            for text in ("another", (files / "operator.token").read_text()):
                token.write_text(text)
                # A file is read again at most once a second.
                wait_until(text, lambda text=text: is_refused(registration) == (text == "another"))  # type: ignore[misc]
        with pytest.raises(musterd.Unauthenticated):
            musterd.register("with_token", daemons=daemons, ca=ca)


def is_refused(registration: musterd.Registration) -> bool:
    try:
        registration.set_status(musterd.Status.ALIVE)
    except musterd.Unauthenticated:
        return True
    return False
