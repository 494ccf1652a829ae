"""What many registrations in one process cost."""

from __future__ import annotations

import pytest
from harness import Daemon, run

TEXT = """
import os, sys, time, musterd
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4
def count(path): return len(os.listdir(path))
musterd.register("many", port=1, ttl=300)
before = resident(), count("/proc/self/fd"), count("/proc/self/task")
total = int(sys.argv[1])
held = [musterd.register("many", port=1, ttl=300, wait=False) for _ in range(total)]
for one in held: one.wait_held(600)
assert all(one.require() for one in held)
print((resident() - before[0]) * 1024 // total, count("/proc/self/fd") - before[1], count("/proc/self/task") - before[2])
os._exit(0)
"""


def cost(daemon: Daemon, total: int) -> None:
    each, descriptors, threads = map(int, run(TEXT, daemon.address, str(total), within=900).split())
    print(f"{total} registrations: {each} bytes each")
    # One stream for all.
    assert (descriptors, threads) == (0, 0)
    assert each < 3_000, f"{each} bytes each"


def test_2000_registrations_cost_one_stream_and_under_3_kb_each(daemon: Daemon) -> None:
    cost(daemon, 2_000)


@pytest.mark.slow
def test_10000_registrations_cost_one_stream_and_under_30_mb(daemon: Daemon) -> None:
    cost(daemon, 10_000)
