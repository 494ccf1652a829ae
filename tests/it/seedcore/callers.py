"""Actors of SeedCore and its manager, as callers of the SQL functions: DSN, number of organs.

With SEEDCORE_SRC, the directory src of a checkout of SeedCore, the classes are its own, unmodified; Ray and whatever else is
not installed is replaced by an empty module. Without it they are written after the same behaviour: a random instance id
without dashes, one SQL call in a transaction of its own, a beat every 3 s and up to 2 s, a longer pause after each error, no
second registration; a manager that expires every 15 s.

Prints a line for each instance that has started and for each warning. Ends when its input ends: each organ closes.
"""

import asyncio
import contextlib
import importlib.abc
import importlib.machinery
import logging
import os
import random
import socket
import sys
import types
import uuid
from unittest import mock


class Empty(type):
    """A class for each name of a module that is not installed: it can be a base, an annotation, a decorator, and called."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Empty(name, (), {})

    def __call__(cls, *args, **kwargs):
        return mock.MagicMock()


class Missing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for modules that are not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.startswith("seedcore") or name.split(".")[0] in sys.stdlib_module_names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__path__ = []
        module.__getattr__ = lambda name: getattr(Empty("Empty", (), {}), name)
        if spec.name == "ray":
            module.remote = lambda *args, **_: args[0] if args else (lambda actor: actor)
        return module

    def exec_module(self, module):
        pass


def real():
    sys.path.insert(0, os.environ["SEEDCORE_SRC"])
    sys.meta_path.append(Missing())
    os.environ["PG_DSN"] = sys.argv[1]
    from seedcore.database import get_async_pg_session_factory
    from seedcore.graph.agent_repository import AgentGraphRepository
    from seedcore.organs.base import Organ
    from seedcore.organs.organism_manager import OrganismManager

    sessions = get_async_pg_session_factory()
    # Its constructor looks for Ray; the loop needs these alone.
    manager = OrganismManager.__new__(OrganismManager)
    manager._session_factory = sessions
    manager._agent_graph_repo, manager._agent_graph_repo_checked = None, False
    manager._maintenance_interval_s = manager._reconcile_grace_s = 15

    async def rotate():
        async with sessions() as session, session.begin():
            await AgentGraphRepository().set_current_cluster_epoch(session=session, epoch=str(uuid.uuid4()))

    return (lambda name: Organ(name, "cognitive")), rotate, manager._reconcile_loop


def written():
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

    log = logging.getLogger("callers")
    engine = create_async_engine(sys.argv[1].replace("postgresql://", "postgresql+asyncpg://"), pool_pre_ping=True)
    sessions = async_sessionmaker(bind=engine, expire_on_commit=False)

    async def call(statement, **values):
        async with sessions() as session, session.begin():
            return (await session.execute(text(statement), values)).scalar()

    class Organ:
        def __init__(self, name):
            self.organ_id, self.instance_id = name, uuid.uuid4().hex
            self.closing = asyncio.Event()

        async def start(self):
            epoch = await call("SELECT current_epoch::text FROM cluster_metadata WHERE id = 1")
            await call(
                "SELECT register_instance(:id, :name, :epoch, :name, NULL, '', :ip, :pid)",
                id=uuid.UUID(self.instance_id), name=self.organ_id, epoch=uuid.UUID(epoch), ip="127.0.0.1", pid=os.getpid(),
            )
            await self.set("alive")
            self.beats = asyncio.create_task(self.beat())

        async def set(self, status):
            await call("SELECT set_instance_status(:id, :status)", id=uuid.UUID(self.instance_id), status=status)

        async def beat(self):
            pause = 0.5
            while not self.closing.is_set():
                try:
                    await call("SELECT beat(:id)", id=uuid.UUID(self.instance_id))
                    pause = 0.5
                except Exception as error:
                    log.warning("heartbeat of %s failed: %s", self.organ_id, error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, 10.0)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.closing.wait(), 3.0 + 2.0 * random.random())

        async def close(self):
            self.closing.set()
            self.beats.cancel()
            with contextlib.suppress(Exception):
                await self.set("dead")

    async def reconcile():
        while True:
            await asyncio.sleep(15)
            try:
                await call("SELECT expire_stale_instances(:seconds)", seconds=15)
                await call("SELECT expire_old_epoch_instances()")
            except Exception as error:
                log.warning("error during maintenance loop: %s", error)

    async def rotate():
        await call("SELECT set_current_epoch(:epoch)", epoch=uuid.uuid4())

    return Organ, rotate, reconcile


class Told(logging.Handler):
    def emit(self, record):
        print("warning", record.getMessage().replace("\n", " "), flush=True)


async def main():
    organ, rotate, reconcile = real() if "SEEDCORE_SRC" in os.environ else written()
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.getLogger().handlers = [Told(level=logging.WARNING)]
    await rotate()
    organs = [organ(f"cognitive_organ_{number}") for number in range(int(sys.argv[2]))]
    manager = asyncio.create_task(reconcile())
    for one in organs:
        await one.start()
        print("started", one.instance_id, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for one in organs:
        await one.close()
    manager.cancel()


asyncio.run(main())
