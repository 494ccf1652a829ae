"""Fixtures: a registry with real daemons on a private PostgreSQL, for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import Daemon, Registry, musterd_settings_of_the_machine


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    with musterd_settings_of_the_machine(), Registry() as registry:
        yield registry


@pytest.fixture
def daemon(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """The daemon that the run shares, as MUSTERD_ADDR."""
    monkeypatch.setenv("MUSTERD_ADDR", registry.daemon.address)
    return registry.daemon


@pytest.fixture
def pair(registry: Registry) -> Iterator[tuple[Daemon, Daemon]]:
    """Two more daemons of the registry, to be killed and paused."""
    with registry.another() as one, registry.another() as other:
        yield one, other
