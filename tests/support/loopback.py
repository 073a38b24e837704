"""What every HTTP server of the tests has in common: loopback, any free port, a thread while the `with` block lasts."""

import json
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class LoopbackServer(ThreadingHTTPServer):
    """`url` is where it answers, with `handler`; `calls` is what it notes, `lock` for what its threads share."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url, self.lock, self.calls = f"http://127.0.0.1:{self.server_address[1]}", threading.Lock(), []

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Quiet: a client that goes away, or a connection that is cut, is what some tests are about."""


class QuietHandler(BaseHTTPRequestHandler):
    """Writes no line for each request, and keeps connections open; an exception in it cuts the connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        """Answers with bytes, or else with JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._head(status, {"Content-Type": "application/json", "Content-Length": str(len(raw)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(raw)

    def stream(self, pieces: Iterable[bytes], kind: str = "application/json", pause: float = 0.0) -> None:
        """Answers with chunks, each sent at once, `pause` seconds apart."""
        self._head(200, {"Content-Type": kind, "Transfer-Encoding": "chunked"})
        for piece in pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            time.sleep(pause)
        self.wfile.write(b"0\r\n\r\n")

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
