"""For Ray actors: registered under the actor's name, with its node, job and restarts as attributes.

    @ray.remote(max_restarts=-1)
    class Organ:
        def __init__(self):
            self.registration = musterd.ray.register(self)

An actor that Ray ends in order gives its lease back. After `ray.kill`, which runs no code of the actor, the broken stream of
beats makes it suspect at once; an actor that Ray restarts registers as a new instance of the same name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

from . import _register

if TYPE_CHECKING:
    from .registration import Registration


def register(actor: Any, logical_id: str | None = None, **settings: Any) -> Registration:
    """Registers the actor that this is called in, from its `__init__` or a method.

    logical_id: by default the name that the actor has in Ray, or else the name of its class. The labels
    `ray.io/actor-id`, `ray.io/job-id` and `ray.io/restarted` are added to those that are given; the node is Ray's node id,
    and the actor name is Ray's. The other settings are those of `musterd.register()`.
    """
    context = ray.get_runtime_context()
    name = context.get_actor_name() or ""
    labels = {
        "ray.io/actor-id": str(context.get_actor_id()),
        "ray.io/job-id": str(context.get_job_id()),
        "ray.io/restarted": str(bool(context.was_current_actor_reconstructed)).lower(),
    }
    settings["labels"] = {**labels, **(settings.get("labels") or {})}
    settings.setdefault("node_id", context.get_node_id())
    settings.setdefault("actor_name", name)
    registration = _register.register(logical_id or name or type(actor).__name__, **settings)
    _close_on_shutdown(actor, registration)
    return registration


def _close_on_shutdown(actor: Any, registration: Registration) -> None:
    """Ray calls `__ray_shutdown__` of an actor that ends in order."""
    before = getattr(actor, "__ray_shutdown__", None)

    def shutdown() -> None:
        try:
            if before is not None:
                before()
        finally:
            registration.close()

    actor.__ray_shutdown__ = shutdown
