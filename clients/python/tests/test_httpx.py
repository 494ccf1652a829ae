"""`musterd.httpx`: requests go to live instances, and on to others when no connection can be made."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import musterd
import pytest
from harness import MUSTERD, Daemon, free_port, wait_until
from musterd.httpx import AsyncTransport, Transport


class Handler(BaseHTTPRequestHandler):
    """Answers with the path, the lease and the body of a request; breaks the connection for /broken."""

    requests = 0

    def do_POST(self) -> None:
        type(self).requests += 1
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/broken":
            return
        answer = f"{self.path} {self.headers['musterd-lease']} {self.headers['host']} {body.decode()}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def test_request_goes_to_a_live_instance_with_its_lease(daemon: Daemon, server: int) -> None:
    with musterd.register("http_organ", ip="127.0.0.1", port=server) as held:
        with httpx.Client(transport=Transport(musterd.Router(), wait=30)) as client:
            answer = client.post("http://http_organ.muster/a?b=c", content=b"body").text
            assert answer == f"/a?b=c {held.lease_id} http_organ.muster body"
            # Other hosts are left alone.
            assert client.get(f"http://127.0.0.1:{server}/x").text.startswith("/x None ")


def test_failed_connection_goes_on_to_another_instance(daemon: Daemon, server: int) -> None:
    with musterd.register("http_failing", ip="127.0.0.1", port=free_port()):
        with musterd.register("http_failing", ip="127.0.0.1", port=server) as live:
            router = musterd.Router(exclude_for=600)
            both = lambda: router.pick("http_failing", wait=30) and len(router.targets("http_failing")) == 2
            wait_until("both are known", both)

            async def ask() -> str:
                async with httpx.AsyncClient(transport=AsyncTransport(router)) as client:
                    return (await client.get("http://http_failing.muster/")).text

            assert asyncio.run(ask()).startswith(f"/ {live.lease_id} ")
            assert router.pick("http_failing").lease_id == live.lease_id


def test_request_that_was_sent_is_not_repeated(daemon: Daemon, server: int) -> None:
    with musterd.register("http_broken", ip="127.0.0.1", port=server):
        with musterd.register("http_broken", ip="127.0.0.1", port=server):
            before = Handler.requests
            with httpx.Client(transport=Transport(musterd.Router(), wait=30)) as client:
                with pytest.raises(httpx.RemoteProtocolError):
                    client.get("http://http_broken.muster/broken")
            assert Handler.requests == before + 1


def test_name_without_an_instance_raises_the_error_of_the_router(daemon: Daemon) -> None:
    with httpx.Client(transport=Transport(musterd.Router())) as client, pytest.raises(musterd.NoLiveInstance):
        client.get("http://http_none.muster/")


def test_service_with_tls_is_checked_for_the_name_that_the_request_gives(daemon: Daemon, tmp_path: Path) -> None:
    files = tmp_path / "tls"
    subprocess.run([MUSTERD, "security", "init", str(files), "--name", "organ.internal"], check=True, capture_output=True)
    encryption = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    encryption.load_cert_chain(files / "server.pem", files / "server.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = encryption.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    trust = httpx.HTTPTransport(verify=ssl.create_default_context(cafile=str(files / "ca.pem")))
    with musterd.register("https_organ", ip="127.0.0.1", port=server.server_address[1]) as held:
        with httpx.Client(transport=Transport(musterd.Router(), trust, wait=30)) as client:
            named = {"sni_hostname": "organ.internal"}
            answer = client.get("https://https_organ.muster/x", extensions=named, headers={"connection": "close"}).text
            assert answer.startswith(f"/x {held.lease_id} ")
            with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                client.get("https://https_organ.muster/x", extensions={"sni_hostname": "another.internal"})
    server.shutdown()
