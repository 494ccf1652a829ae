"""An actor: registers, beats over a stream, registers again when its lease has ended, drains on SIGTERM.

    python docs/examples/actor.py LOGICAL_ID IP PORT

MUSTERD_ADDR names the daemons, separated by commas; any of them serves all calls.
"""

import itertools
import os
import queue
import signal
import socket
import sys
import threading
import uuid

import grpc
from google.protobuf.duration_pb2 import Duration
from muster.v1 import error_pb2, instance_pb2, registry_pb2, registry_pb2_grpc

DAEMONS = os.environ.get("MUSTERD_ADDR", "127.0.0.1:7717").split(",")
# Keepalive detects a daemon that is gone within 15 s.
OPTIONS = [("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 5_000)]
# After these codes the same call may be repeated, at any daemon; it takes effect once.
PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}


class Actor:
    def __init__(self, logical_id, ip_address, port):
        self.request = registry_pb2.RegisterRequest(
            instance_id=str(uuid.uuid4()),
            logical_id=logical_id,
            node_id=socket.gethostname(),
            ip_address=ip_address,
            port=port,
            pid=os.getpid(),
            ttl=Duration(seconds=6),
            initial_status=instance_pb2.INSTANCE_STATUS_ALIVE,
        )
        self.lease_id = 0
        self.wish = "serve"
        self.woken = threading.Event()

    def want(self, wish):
        """Sets the goal: serve, then drain, then leave."""
        self.wish = wish
        self.woken.set()

    def keep(self):
        """Holds a lease until the goal is to leave. Runs on a dedicated thread, so that no work can delay a beat."""
        for daemon in itertools.cycle(DAEMONS):
            # An actor that drains and has lost its lease needs no new one.
            if self.wish == "leave" or (self.wish == "drain" and not self.lease_id):
                return
            try:
                with grpc.insecure_channel(daemon, OPTIONS) as channel:
                    registry = registry_pb2_grpc.RegistryServiceStub(channel)
                    if not self.lease_id:
                        self.register(registry)
                    self.beat(registry)
            except grpc.RpcError as error:
                say(f"{daemon}: {error.code().name}: {error.details()}")
                if error.code() not in PASSING:
                    raise
                self.woken.wait(0.5)

    def register(self, registry):
        granted = registry.Register(self.request, timeout=5)
        self.lease_id = granted.lease_id
        say(f"registered: lease {granted.lease_id}, epoch {granted.epoch_number}")

    def beat(self, registry):
        """Renews the lease over one stream, until it has ended or the actor leaves."""
        requests = queue.SimpleQueue()
        answers = registry.BeatStream(iter(requests.get, None))
        while self.wish != "leave":
            requests.put(registry_pb2.BeatStreamRequest(lease_ids=[self.lease_id]))
            answer = next(answers)
            for lost in answer.exceptions:
                # Stop here what the lease allowed: another instance may have taken over.
                say(f"lease {lost.lease_id} has ended: {error_pb2.ErrorReason.Name(lost.reason)}")
                if lost.reason == error_pb2.ERROR_REASON_LEASE_REPLACED:
                    self.request.instance_id = str(uuid.uuid4())
                self.lease_id = 0
                requests.put(None)
                return
            if self.woken.wait(answer.next_beat_in.ToTimedelta().total_seconds()):
                self.woken.clear()
                if self.wish == "drain":
                    self.drain(registry)
        # Without a goodbye, the end of the stream would make the lease suspect.
        requests.put(registry_pb2.BeatStreamRequest(goodbye=True))
        requests.put(None)
        registry.Deregister(registry_pb2.DeregisterRequest(lease_id=self.lease_id), timeout=5)
        say(f"lease {self.lease_id} is given back")

    def drain(self, registry):
        """Stops new traffic from routers. Beats continue until the work is finished."""
        draining = instance_pb2.INSTANCE_STATUS_DRAINING
        registry.SetStatus(registry_pb2.SetStatusRequest(lease_id=self.lease_id, status=draining), timeout=5)
        say("draining")


def say(text):
    print(text, flush=True)


def main():
    logical_id, ip_address, port = sys.argv[1:]
    told_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told_to_end.set())
    actor = Actor(logical_id, ip_address, int(port))
    keeper = threading.Thread(target=actor.keep)
    keeper.start()
    # The actor does its work here.
    while keeper.is_alive() and not told_to_end.wait(1):
        pass
    actor.want("drain")
    # The actor finishes its pending work here.
    keeper.join(2)
    actor.want("leave")
    keeper.join()


if __name__ == "__main__":
    main()
