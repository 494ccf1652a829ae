"""Measures what the installed package costs: import, picks from the cache of a router, many names, and many registrations.

    venv/bin/python clients/python/measure.py [NAMES AND REGISTRATIONS]

It needs a daemon (`MUSTERD_ADDR`), and gives back what it registers. Figures are the best of some runs: others use the
machine too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import timeit


def imports() -> float:
    """Milliseconds that `import musterd` adds to the start of an interpreter, and nothing else."""
    text = "import time; begun = time.perf_counter(); import musterd; print((time.perf_counter() - begun) * 1000)"
    runs = [subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True) for _ in range(7)]
    return min(float(run.stdout) for run in runs)


def picks() -> dict[str, float]:
    """Microseconds for a pick."""
    import musterd

    name = f"pick-{os.getpid()}"
    held = [musterd.register(name, port=port) for port in range(1, 6)]
    router = musterd.Router()
    router.pick(name, wait=30)
    found = {}
    for word, pick in (("best", lambda: router.pick(name)), ("rendezvous", lambda: router.pick(name, key="key"))):
        found[word] = min(timeit.repeat(pick, number=100_000, repeat=5)) * 10
    for one in held:
        one.close()
    return found


def names(total: int) -> str:
    """What a router of so many names takes, each with one instance, and what a pick among them does."""
    import musterd

    prefix = f"name-{os.getpid()}"
    held = [musterd.register(f"{prefix}-{number}", port=1, ttl=300, wait=False) for number in range(total)]
    for one in held:
        one.wait_held(600)
    router = musterd.Router()
    before, begun = (resident(), count("fd"), count("task")), time.perf_counter()
    for number in range(total):
        router.pick(f"{prefix}-{number}")
    took = time.perf_counter() - begun
    memory, files, threads = (resident() - before[0]) / 1e6, count("fd") - before[1], count("task") - before[2]
    all_names = [f"{prefix}-{number}" for number in range(total)]
    each = min(timeit.repeat(lambda: [router.pick(name) for name in all_names], number=1, repeat=5)) / total * 1e6
    for one in held:
        one.close()
    return (
        f"router of {total} names: {memory:.1f} MB, {files} more file descriptors, {threads} more threads, "
        f"known in {took:.1f} s, {each:.2f} us for a pick"
    )


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def count(what: str) -> int:
    return len(os.listdir(f"/proc/self/{what}"))


def registrations(total: int) -> str:
    """What so many registrations in this process take."""
    import musterd

    name = f"many-{os.getpid()}"
    first = musterd.register(name, port=1, ttl=300)
    before = resident(), count("fd"), count("task")
    begun = time.perf_counter()
    held = [musterd.register(name, port=1, ttl=300, wait=False) for _ in range(total)]
    for one in held:
        one.wait_held(600)
    took = time.perf_counter() - begun
    memory, files, threads = (resident() - before[0]) / 1e6, count("fd") - before[1], count("task") - before[2]
    cpu = time.process_time()
    time.sleep(20)
    cpu = (time.process_time() - cpu) / 20
    for one in [first, *held]:
        one.close()
    return (
        f"{total} registrations: {memory:.1f} MB, {files} more file descriptors, {threads} more threads, "
        f"made in {took:.1f} s, {cpu:.2%} of a core while held"
    )


def main() -> None:
    print(f"import musterd: {imports():.1f} ms")
    for word, microseconds in picks().items():
        print(f"Router.pick ({word}): {microseconds:.2f} us among 5 instances")
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    print(names(total))
    print(registrations(total))


if __name__ == "__main__":
    main()
