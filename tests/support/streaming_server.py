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
        self.server.calls.append((self.path, body, self.headers))
        model = body["model"]
        thinks = model == "no-thinking" and body.get("think")
        if model.startswith("http-") or thinks:
            said = f'"{model}" does not support thinking' if thinks else "the key sk-secret is <b>wrong</b>"
            self._start(400 if thinks else int(model.removeprefix("http-")))
            self.wfile.write(json.dumps({"error": said}).encode())
            return
        self._start(200, length=9_999 if model == "lost" else None)
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

    def _start(self, status: int, length: int | None = None) -> None:
        self.send_response(status)
        if length:
            self.send_header("Content-Length", str(length))
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
    "error-line": [("", "No"), {"error": "out of memory"}],
    "error-text": [("", "No"), {"error": "out of memory"}],
    "no-thinking": [("", "No.")],
    **{model: [("", "No")] for model in ("breaks-off", "lost", "content_filter")},
}
REASONS = {"cut": "length", "content_filter": "content_filter", "breaks-off": "", "lost": ""}  # "": none is sent


def openai_rows(model: str):
    """Server-sent events, with the count of tokens in a last one without choices."""
    for part in PARTS[model]:
        if isinstance(part, tuple):
            delta = {"content": part[1]} if part[1] else {"reasoning_content": part[0]}
            yield {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        else:
            yield {"error": {"message": part["error"]}} if model == "error-line" else part
    if reason := REASONS.get(model, "stop"):
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
        yield {"choices": [], "usage": {"completion_tokens": 42}}
        yield "[DONE]"


def ollama_rows(model: str):
    """Lines of JSON, with the count of tokens in the last."""
    for part in PARTS[model]:
        if isinstance(part, tuple):
            yield {"message": {"role": "assistant", "thinking": part[0], "content": part[1]}, "done": False}
        else:
            yield part
    if reason := REASONS.get(model, "stop"):
        yield {"message": {"role": "assistant", "content": ""}, "done": True, "eval_count": 42, "done_reason": reason}
