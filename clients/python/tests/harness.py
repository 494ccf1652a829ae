"""Real daemons for the tests, on a private PostgreSQL, and what the tests ask of them through the command line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

T = TypeVar("T")
P = TypeVar("P", bound="Program")

# For what a loaded machine does at its own pace.
BOUND = 60.0
MUSTERD = os.environ.get("MUSTERD_BIN") or str(Path(__file__).resolve().parents[3] / "target/debug/musterd")


def wait_until(what: str, condition: Callable[[], T], within: float = BOUND) -> T:
    """Waits until a condition has a true value, and returns it."""
    until = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < until, f"not within {within} s: {what}"
        time.sleep(0.02)
    return value


def free_port() -> int:
    """A port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def musterd_settings_of_the_machine() -> Iterator[None]:
    """Leaves the variables of the developer out."""
    saved = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("MUSTERD_")}
    try:
        yield
    finally:
        os.environ.update(saved)


class Listed:
    """An instance, as a daemon lists it."""

    def __init__(self, listed: dict[str, Any]) -> None:
        self.instance_id, self.lease_id = str(listed["instanceId"]), int(listed["leaseId"])
        self.status = str(listed["status"]).removeprefix("INSTANCE_STATUS_").lower()
        self.suspect, self.labels = bool(listed["suspect"]), dict(listed["labels"])
        self.pid = int(listed["pid"])
        self.ip, self.port = str(listed["ipAddress"]), int(listed["port"])
        self.node_id, self.version = str(listed["nodeId"]), str(listed["version"])
        self.reason = str(listed["statusReason"])
        self.died_at = str((listed.get("death") or {}).get("at") or "")
        self.death = str((listed.get("death") or {}).get("reason", "")).removeprefix("DEATH_REASON_").lower()


class Daemon:
    """A running daemon."""

    def __init__(self, directory: Path, database_url: str | None, *more: str) -> None:
        flags = ["--data-dir", str(directory)] if database_url is None else ["--database-url", database_url]
        self._log = directory / f"daemon-{time.monotonic_ns()}.log"
        command = [MUSTERD, "serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", *flags, *more]
        environment = {**os.environ, "MUSTERD_CONFIG": "/dev/null"}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen([*command, "--log-format", "json"], stderr=log, env=environment)
        self.address = str(wait_until("the daemon is ready", self._ready_at))

    def _ready_at(self) -> str | None:
        assert self.process.poll() is None, self._log.read_text()
        for line in self._log.read_text().splitlines():
            if '"musterd is ready"' in line:
                return str(json.loads(line)["address"])
        return None

    def command(self, *arguments: str, check: bool = True) -> str:
        """What a command of `musterd` prints at this daemon."""
        done = subprocess.run(
            [MUSTERD, *arguments, "--addr", self.address], capture_output=True, text=True, timeout=BOUND
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def instances(self, name: str, *flags: str) -> list[Listed]:
        """The instances of a name, as the daemon lists them."""
        lines = self.command("list", "--prefix", name, "-o", "jsonl", *flags).splitlines()
        return [Listed(one) for one in map(json.loads, lines) if one["logicalId"] == name]

    def statuses(self, name: str) -> list[tuple[str, str]]:
        """The status of each instance of a name, with its reason."""
        return [(one.status, one.reason) for one in self.instances(name)]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(BOUND)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Registry:
    """A private PostgreSQL with a daemon that is not disturbed, and any number of others."""

    def __enter__(self) -> Registry:
        # In memory where there is room; another user runs PostgreSQL, and has to enter the directory.
        parent = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.directory = Path(tempfile.mkdtemp(prefix="musterd-python-", dir=parent))
        self.directory.chmod(0o711)
        self.daemon = Daemon(self.directory, None)
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.end()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def database_url(self) -> str:
        sockets = quote(str(self.directory / "run"), safe="")
        return f"postgresql://musterd@{sockets}:5432/musterd"

    @contextlib.contextmanager
    def another(self, *flags: str) -> Iterator[Daemon]:
        """One more daemon on the same PostgreSQL."""
        daemon = Daemon(self.directory, self.database_url, *flags)
        try:
            yield daemon
        finally:
            daemon.end()


class Proxy:
    """A link to a daemon that can be cut: connections stay, and nothing comes through."""

    def __init__(self, target: str) -> None:
        host, port = target.split(":")
        self._target, self._cut = (host, int(port)), threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._cut.set()

    def join(self) -> None:
        self._cut.clear()

    def _accept(self) -> None:
        while True:
            here, _ = self._server.accept()
            there = socket.create_connection(self._target)
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self._cut.is_set():
                    time.sleep(0.01)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


class Program:
    """A process that talks over its standard streams, and is killed when the test has ended."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment}
        )

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line and self.process.poll() is not None:
            assert self.process.stderr is not None
            raise AssertionError(self.process.stderr.read())
        return line

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self, within: float = BOUND) -> tuple[int, str, str]:
        """Its exit code, what else it printed, and its errors."""
        output, errors = self.process.communicate(timeout=within)
        return self.process.returncode, output, errors

    def __enter__(self: P) -> P:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Script(Program):
    """A Python program."""

    def __init__(self, text: str, daemons: str, *arguments: str) -> None:
        environment = {"MUSTERD_ADDR": daemons, "PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1"}
        super().__init__([sys.executable, "-c", textwrap.dedent(text), *arguments], environment)


class Watch(Program):
    """`musterd watch` of a name."""

    def __init__(self, name: str, daemon: Daemon) -> None:
        super().__init__([MUSTERD, "watch", name, "--addr", daemon.address], {})

    def stop(self) -> str:
        """Ends it, and returns what it has printed that was not read."""
        self.process.terminate()
        return self.process.communicate()[0]


def run(text: str, daemons: str, *arguments: str, within: float = BOUND) -> str:
    """Runs a program to its end, which must be a good one, and returns what it printed."""
    with Script(text, daemons, *arguments) as script:
        code, output, errors = script.end(within)
        assert code == 0, f"exit code {code}\n{output}\n{errors}"
        return output
