"""An S3-compatible server, and a proxy in front of it that does to answers what networks do."""

from __future__ import annotations

import http.client
import logging
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

__all__ = ["BUCKET", "Store"]

BUCKET = "nuscenes"
logging.getLogger("werkzeug").setLevel(logging.ERROR)

_KEYS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}


class Store:
    """A bucket behind a proxy.

    Attributes:
        endpoint: URL of the proxy.
        faults: what happens to the next answers that carry an image: "500", "503", "reset", "cut" (half of it comes),
            "slow" (it takes longer than clients wait), "wrong length".
        requests: how often each object was asked for with GET.
    """

    def __init__(self) -> None:
        self.faults: deque[str] = deque()
        self.requests: Counter[str] = Counter()
        self.slow_s = 3.0
        self._moto = _started(0)
        self._port = self._moto.get_host_and_port()[1]
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._proxy.daemon_threads = True
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._proxy.server_address[1]}"
        self.client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self._port}", **_KEYS)
        self.client.create_bucket(Bucket=BUCKET)

    @property
    def address(self) -> tuple[str, int]:
        """Of the server behind the proxy."""
        return "127.0.0.1", self._port

    def upload(self, folder: Path) -> None:
        """Put every file of a folder into the bucket."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.client.put_object(Bucket=BUCKET, Key=str(path.relative_to(folder)), Body=path.read_bytes())

    @contextmanager
    def down(self) -> Iterator[None]:
        """No server while this lasts; it comes back with all it had."""
        self._stop()
        try:
            yield
        finally:
            self._moto = _started(self._port)

    def close(self) -> None:
        """Stop everything."""
        self._proxy.shutdown()
        self._proxy.server_close()
        self._stop()

    def _stop(self) -> None:
        self._moto.stop()
        self._moto._server.server_close()  # else its port stays taken, and connections hang instead of failing


def _started(port: int) -> ThreadedMotoServer:
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    return server


def _handler(store: Store) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.forward()

        def do_GET(self) -> None:
            name = self.path.partition("?")[0].removeprefix(f"/{BUCKET}/")
            store.requests[name] += 1
            fault = store.faults.popleft() if store.faults and name.endswith(".jpg") else None
            if fault in ("500", "503"):
                self.close_connection = True
                self.send_error(int(fault))
            elif fault == "reset":
                self.reset()
            else:
                self.forward(fault)

        def forward(self, fault: str | None = None) -> None:
            connection = http.client.HTTPConnection(*store.address, timeout=10)
            try:
                connection.request(self.command, self.path, headers=dict(self.headers.items()))
                answer = connection.getresponse()
                body = answer.read()
            except OSError:
                self.reset()
                return
            finally:
                connection.close()
            self.answer(answer, body, fault)

        def answer(self, answer: http.client.HTTPResponse, body: bytes, fault: str | None) -> None:
            if fault == "slow":
                time.sleep(store.slow_s)
            self.send_response(answer.status)
            left_out = {"transfer-encoding", "connection", "date", "server", "x-amz-checksum-crc32"}
            for name, value in answer.getheaders():
                if name.lower() not in left_out | ({"content-length"} if fault == "wrong length" else set()):
                    self.send_header(name, value)
            if fault == "wrong length":
                self.send_header("Content-Length", str(len(body) // 2))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: len(body) // 2] if fault in ("cut", "wrong length") else body)
            if fault == "cut":
                self.reset()

        def reset(self) -> None:
            """Close without goodbye."""
            self.close_connection = True
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

        def handle(self) -> None:
            try:
                super().handle()
            except (OSError, ValueError):
                self.close_connection = True  # the client went, or we did

        def finish(self) -> None:
            try:
                super().finish()
            except (OSError, ValueError):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler
