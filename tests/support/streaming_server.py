"""A real HTTP server on loopback that streams chats, as Ollama and as OpenAI-compatible servers do; used by tests."""

from __future__ import annotations

import json
import threading
import time

from loopback import LoopbackServer, QuietHandler


class StreamServer(LoopbackServer):
    """Model names say what is streamed: see `_Handler.rows`. `calls` are (path, body, headers), `broken` closed connections."""

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__(_Handler)
        self.pause, self.calls, self.broken = pause, [], threading.Event()
        self.both = threading.Barrier(2)


class _Handler(QuietHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls.append((self.path, body, dict(self.headers)))
        model = body["model"]
        if model.startswith("http-"):
            status = int(model.removeprefix("http-"))
            self._start(status)
            self.wfile.write(b'{"error": {"message": "the key sk-secret is <b>wrong</b>"}}')
            return
        self._start(200)
        if model == "together":  # goes on only when the other voice has come as well
            self.server.both.wait(20)
        ollama = self.path == "/api/chat"
        try:
            for row in ollama_rows(model) if ollama else openai_rows(model):
                line = row if isinstance(row, str) else json.dumps(row)
                self.wfile.write((line + "\n" if ollama else f"data: {line}\n\n").encode())
                self.wfile.flush()
                time.sleep(self.server.pause)
        except (BrokenPipeError, ConnectionResetError):
            self.server.broken.set()

    def _start(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()


PARTS = {
    "inline": [("", "<thi"), ("", "nk>\nI wonder.\n</th"), ("", "ink>\n\nNo"), ("", ".")],
    "apart": [("I ", ""), ("wonder.", ""), ("", "\n\nNo"), ("", ".")],
    "prefilled": [("", "I wonder.\n</think>"), ("", "\n\nNo.")],
    "untagged": [("", "No.")],
    "unopened": [("", "I wonder."), ("", "</think>\n\nNo.")],
    "megabyte": [("", "<b>" + "x" * 9_997)] * 100,
    "together": [("I wonder.", ""), ("", "No.")],
    "endless": [("", "on and ")] * 100_000,
    "cut": [("I wonder", "")],
    "bad-line": [("", "No"), "this is no JSON"],
    "error-line": [("", "No"), {"error": {"message": "out of memory"}}],
}


def openai_rows(model: str):
    """Server-sent events, with the count of tokens in a last one without choices."""
    for part in PARTS[model]:
        if not isinstance(part, tuple):
            yield part
            continue
        delta = {"content": part[1]} if part[1] else {"reasoning_content": part[0]}
        yield {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    reason = "length" if model == "cut" else "stop"
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    yield {"choices": [], "usage": {"completion_tokens": 42}}
    yield "[DONE]"


def ollama_rows(model: str):
    """Lines of JSON, with the count of tokens in the last."""
    for part in PARTS[model]:
        if not isinstance(part, tuple):
            yield part
            continue
        yield {"message": {"role": "assistant", "thinking": part[0], "content": part[1]}, "done": False}
    yield {"message": {"role": "assistant", "content": ""}, "done": True, "eval_count": 42,
           "done_reason": "length" if model == "cut" else "stop"}  # fmt: skip
