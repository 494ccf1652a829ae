"""The examples of the documentation run, and the documentation shows them as they are."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import musterd
import psycopg
import pytest
from harness import Daemon, Registry, free_port, wait_until
from musterd.httpx import Transport

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "clients/python/examples"
PAGES = [ROOT / "README.md", ROOT / "docs/clients/python.md"]


def test_pages_show_the_examples_as_they_are() -> None:
    shown = set()
    for page in PAGES:
        blocks = re.findall(r"<!-- file: (clients/python/\S+) -->\n```python\n(.*?)\n```", page.read_text(), re.S)
        for path, text in blocks:
            assert text in (ROOT / path).read_text(), f"{page.name} shows something else than {path}"
            shown.add(ROOT / path)
    assert shown == set(EXAMPLES.glob("*.py"))
    start = (EXAMPLES / "start.py").read_text().split('"""\n\n', 1)[1]
    assert start.strip() in (ROOT / "clients/python/README.md").read_text()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("start", r"call http://127.0.0.1:8000 with lease \d+"),
        ("actor", r"write to the database with lease \d+; the database refuses a lower one"),
        ("loop", r"you sent lease \d+"),
        ("grpc_router", "greeter is SERVING"),
    ],
)
def test_example_runs_and_prints_what_it_should(daemon: Daemon, name: str, expected: str) -> None:
    done = subprocess.run([sys.executable, EXAMPLES / f"{name}.py"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(expected, done.stdout.strip()), done.stdout


def test_pool_does_each_item_once_under_a_lease_and_a_lease_that_has_ended_writes_nothing(
    daemon: Daemon, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", registry.database_url)
    with psycopg.connect(registry.database_url, autocommit=True) as database:
        database.execute("CREATE TABLE work (item bigint PRIMARY KEY, done_by bigint)")
        database.execute("INSERT INTO work SELECT number FROM generate_series(1, 40) number")
        done = subprocess.run([sys.executable, EXAMPLES / "pool.py"], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout.strip()) == (0, "40 items are done"), done.stderr
        leases = {one.lease_id for one in daemon.instances("pool", "--all-statuses")}
        by = {row[0] for row in database.execute("SELECT DISTINCT done_by FROM work").fetchall()}
        assert by <= leases and len(leases) == 3
        with musterd.register("pool", on_lost="stop") as registration:
            lease_id = registration.require()
            daemon.command("expire", str(registration.instance_id))
            with pytest.raises(psycopg.Error) as refused, database.transaction():
                database.execute("SELECT assert_lease(%s)", [lease_id])
        assert refused.value.sqlstate == "MU005"
        database.execute("DROP TABLE work")


def test_service_is_registered_drained_on_a_signal_and_asked_through_the_router(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("PORT", str(port))
    command = [sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), "--log-level", "warning"]
    service = subprocess.Popen(command, cwd=EXAMPLES)
    try:
        router = musterd.Router()
        with httpx.Client(transport=Transport(router, wait=60), timeout=60) as client:
            lease = int(client.get("http://organ.muster/lease").text)
            assert int(client.get("http://organ.muster/peer").text) == lease
            service.send_signal(signal.SIGTERM)
            wait_until("it drains", lambda: [one.status for one in daemon.instances("organ")] == ["draining"])
            # The server still answers requests that come by its address.
            assert int(httpx.get(f"http://127.0.0.1:{port}/lease", timeout=60).text) == lease
        # uvicorn has ended in order, and then raises the signal once more.
        assert service.wait(60) == -signal.SIGTERM
        assert daemon.instances("organ") == []
    finally:
        service.kill()
        service.wait()
