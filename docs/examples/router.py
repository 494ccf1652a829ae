"""A router: resolves the best instance, then another one, and keeps a cache that a watch fills.

    python docs/examples/router.py LOGICAL_ID

MUSTERD_ADDR names the daemon.
"""

import os
import sys
import threading
import time

import grpc
from muster.v1 import discovery_pb2, discovery_pb2_grpc, instance_pb2

DAEMON = os.environ.get("MUSTERD_ADDR", "127.0.0.1:7717")


class Cache:
    """The alive instances of a logical id, kept current by a watch. A lookup is not a call."""

    def __init__(self, discovery, logical_id):
        self.discovery = discovery
        alive = [instance_pb2.INSTANCE_STATUS_ALIVE]
        self.request = discovery_pb2.WatchRequest(logical_id=logical_id, statuses=alive)
        self.instances = {}
        # A snapshot that is not yet complete; None if `instances` is current.
        self.coming = {}
        self.filled = threading.Event()

    def run(self):
        while True:
            try:
                if self.coming is not None:
                    self.coming = {}
                for response in self.discovery.Watch(self.request):
                    self.take(response)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.CANCELLED:
                    return
                # The cache keeps its content, which ages. Any daemon can resume the watch.
                print(f"watching again after {error.code().name}: {error.details()}", flush=True)
                time.sleep(0.5)

    def take(self, response):
        if response.reset:
            # The watch cannot resume. The cache serves its old content until the snapshot that follows is complete.
            self.coming = {}
        instances = dict(self.instances) if self.coming is None else self.coming
        for event in response.events:
            instance = event.instance
            if event.type == discovery_pb2.WATCH_EVENT_TYPE_PUT:
                instances[instance.instance_id] = instance
            elif event.type == discovery_pb2.WATCH_EVENT_TYPE_GONE:
                instances.pop(instance.instance_id, None)
            elif instance.instance_id in instances:
                # SUSPECT and RECOVERED carry ids and suspicion only.
                instances[instance.instance_id].suspect = instance.suspect
        if self.coming is not None and not response.snapshot_complete:
            return
        # Instances of an older epoch are dead, with or without an event.
        epoch = response.cluster_epoch
        self.instances = {key: one for key, one in instances.items() if one.cluster_epoch == epoch}
        self.coming = None
        self.request.resume_after, self.request.history_id = response.revision, response.history_id
        self.filled.set()

    def best(self):
        """The choice of Resolve: not suspect before suspect, then the longest serving, then the lowest id."""
        rank = lambda one: (one.suspect, one.started_at.ToNanoseconds(), one.instance_id)
        return min(self.instances.values(), key=rank, default=None)


def resolve(discovery, logical_id, excluded=()):
    """A live instance; None if there is none."""
    choice = discovery_pb2.ResolveChoice(excluded_instance_ids=[one.instance_id for one in excluded])
    request = discovery_pb2.ResolveRequest(logical_id=logical_id, choice=choice)
    try:
        return discovery.Resolve(request, timeout=2).instance
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            return None
        raise


def say(what, one):
    print(f"{what}: {one.ip_address}:{one.port}, lease {one.lease_id}" if one else f"{what}: none", flush=True)


def main():
    logical_id = sys.argv[1]
    with grpc.insecure_channel(DAEMON) as channel:
        discovery = discovery_pb2_grpc.DiscoveryServiceStub(channel)
        best = resolve(discovery, logical_id)
        say("best", best)
        if best:
            # As after a failed call to it. Send its lease along: a receiver rejects a lower one than the highest seen.
            say("without that one", resolve(discovery, logical_id, excluded=[best]))
        cache = Cache(discovery, logical_id)
        threading.Thread(target=cache.run, daemon=True).start()
        cache.filled.wait(10)
        say(f"best of {len(cache.instances)} in the cache", cache.best())


if __name__ == "__main__":
    main()
