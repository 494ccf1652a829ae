"""`musterd.ray` with real Ray. It needs the package `ray`, and runs where it is installed: `clients/python/test.sh --ray`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import musterd
import pytest
from harness import Daemon, wait_until

ray = pytest.importorskip("ray", reason="clients/python/test.sh --ray installs it")


@pytest.fixture
def cluster(daemon: Daemon) -> Iterator[None]:
    environment: dict[str, Any] = {"env_vars": {"MUSTERD_ADDR": daemon.address}}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env=environment, logging_level="error")
    yield
    ray.shutdown()


def organ() -> Any:
    @ray.remote(num_cpus=0)
    class Organ:
        def __init__(self) -> None:
            import musterd.ray

            self.registration = musterd.ray.register(self, port=8000, ttl=3)

        def lease(self) -> int:
            return self.registration.require()

        def die(self) -> None:
            os._exit(1)

    return Organ


def test_actor_joins_and_survives_its_restart(daemon: Daemon, cluster: None) -> None:
    actor = organ().options(name="ray_organ", max_restarts=1, max_task_retries=3).remote()
    lease = ray.get(actor.lease.remote())
    [listed] = daemon.instances("ray_organ")
    assert listed.lease_id == lease and listed.labels["ray.io/restarted"] == "false" and listed.port == 8000
    assert len(listed.labels["ray.io/actor-id"]) > 8 and listed.node_id == ray.nodes()[0]["NodeID"]
    actor.die.options(max_task_retries=0).remote()
    wait_until("its broken stream is noticed", lambda: any(one.suspect for one in daemon.instances("ray_organ")))
    router = musterd.Router()
    [target] = wait_until("it has a new lease", lambda: others(router, lease))
    assert target.labels["ray.io/restarted"] == "true" and target.instance_id != listed.instance_id
    assert ray.get(actor.lease.remote()) == target.lease_id


def others(router: musterd.Router, lease: int) -> list[musterd.Target]:
    try:
        router.pick("ray_organ", wait=5)
    except musterd.NoLiveInstance:
        return []
    return [target for target in router.targets("ray_organ") if target.lease_id != lease]


def test_actor_that_ends_in_order_leaves(daemon: Daemon, cluster: None) -> None:
    actor = organ().options(name="ray_leaving").remote()
    assert ray.get(actor.lease.remote()) > 0
    del actor
    wait_until("it has left", lambda: daemon.instances("ray_leaving") == [])
    [dead] = daemon.instances("ray_leaving", "--all-statuses")
    assert dead.death == "deregistered"


def test_killed_actor_is_suspect(daemon: Daemon, cluster: None) -> None:
    actor = organ().options(name="ray_killed").remote()
    assert ray.get(actor.lease.remote()) > 0
    ray.kill(actor)
    wait_until("it is suspect", lambda: [one.suspect for one in daemon.instances("ray_killed")] in ([True], []))
    wait_until("it has expired", lambda: daemon.instances("ray_killed") == [])
    [dead] = daemon.instances("ray_killed", "--all-statuses")
    assert dead.death == "stale"


def test_example_runs(daemon: Daemon) -> None:
    example = Path(__file__).resolve().parents[1] / "examples/ray_actor.py"
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith("lease "), done.stderr
