"""A pool of workers: what a worker writes is committed only while its lease is alive."""

import multiprocessing
import os

import musterd
import psycopg

# Takes one item that no other worker has.
TAKE = """
UPDATE work SET done_by = %s
WHERE item = (SELECT item FROM work WHERE done_by IS NULL ORDER BY item LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING item
"""


def work(_: int) -> int:
    """A worker process: does items until none is left, and returns how many."""
    done = 0
    with musterd.register("pool", ttl=6) as registration, psycopg.connect(os.environ["DATABASE_URL"]) as database:
        while True:
            lease_id = registration.require(remaining=1.0)  # by the clock of this process, without a call
            with database.transaction():
                # By PostgreSQL: fails if the lease has ended, and keeps it alive until the commit.
                database.execute("SELECT assert_lease(%s)", [lease_id])
                item = database.execute(TAKE, [lease_id]).fetchone()
            if item is None:
                return done
            done += 1


if __name__ == "__main__":
    with multiprocessing.Pool(3) as pool:
        print(sum(pool.map(work, range(3), chunksize=1)), "items are done")
        pool.close()
        pool.join()
