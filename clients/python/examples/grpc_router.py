"""A router of gRPC calls: a channel for each instance, and another instance when one cannot be reached."""

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import musterd
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

router = musterd.Router()


@functools.lru_cache(maxsize=64)
def stub(address: str) -> Any:
    return health_pb2_grpc.HealthStub(grpc.insecure_channel(address))


def check(target: musterd.Target) -> str:
    try:
        answer = stub(target.address).Check(health_pb2.HealthCheckRequest(), timeout=2)
    except grpc.RpcError as error:
        # It may have been sent: raise this only for calls that may be repeated.
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            raise ConnectionError(error.details()) from error
        raise
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(4))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with musterd.register("greeter", ip="127.0.0.1", port=port):
        print("greeter is", router.run("greeter", check, wait=5))
    server.stop(None)


if __name__ == "__main__":
    main()
