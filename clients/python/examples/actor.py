"""An actor: registered while it works, drained on SIGTERM, fenced by its lease."""

import signal

import musterd


def work(registration: musterd.Registration) -> None:
    lease_id = registration.require(remaining=1.0)  # raises LeaseLost; no call, no wait
    print(f"write to the database with lease {lease_id}; the database refuses a lower one")


with musterd.register("worker", port=8001, ttl=6, on_lost=lambda lost: print(f"stop the work: {lost}")) as registration:
    registration.drain_on(signal.SIGTERM, grace=10)
    try:
        work(registration)
    except musterd.LeaseLost as lost:
        print(f"not done: {lost}")
