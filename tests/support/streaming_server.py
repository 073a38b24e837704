"""A real HTTP server on loopback that streams chats, as Ollama and as OpenAI-compatible servers do; used by tests."""

import json
import threading
from collections.abc import Iterator

from loopback import LoopbackServer, QuietHandler


class StreamServer(LoopbackServer):
    """Model names say what is streamed: `raw` holds a content type and bytes by name, PARTS the rest.

    `calls` are (path, body, headers), `broken` tells of a closed connection.
    """

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__(_Handler)
        self.pause, self.broken, self.both = pause, threading.Event(), threading.Barrier(2)
        self.raw: dict[str, tuple[str, list[bytes]]] = {}


class _Handler(QuietHandler):
    def do_POST(self) -> None:
        body = json.loads(self.body())
        self.server.calls.append((self.path, body, self.headers))
        model = body["model"]
        if model == "no-thinking" and body.get("think"):
            self.send(400, {"error": f'"{model}" does not support thinking'})
        elif model.startswith("http-"):
            self.send(int(model.removeprefix("http-")), {"error": "the key sk-secret is <b>wrong</b>"})
        elif model in self.server.raw:
            kind, pieces = self.server.raw[model]
            self.stream(pieces, kind)
        else:
            try:
                self.stream(self._lines(model), "text/event-stream", self.server.pause)
            except (BrokenPipeError, ConnectionResetError):
                self.server.broken.set()

    def _lines(self, model: str) -> Iterator[bytes]:
        if model == "together":  # goes on only when the other voice has come as well
            self.server.both.wait(20)
        ollama = self.path == "/api/chat"
        for row in rows(model, ollama):
            line = row if isinstance(row, str) else json.dumps(row)
            yield (line + "\n" if ollama else f"data: {line}\n\n").encode()
        if model == "lost":
            raise ConnectionAbortedError


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


def rows(model: str, ollama: bool) -> Iterator[dict | str]:
    """What is sent in Ollama's form, or as OpenAI's events; the count of tokens comes last."""
    for part in PARTS[model]:
        if not isinstance(part, tuple):
            yield part if ollama or model != "error-line" else {"error": {"message": part["error"]}}
        elif ollama:
            yield {"message": {"role": "assistant", "thinking": part[0], "content": part[1]}, "done": False}
        else:
            delta = {"content": part[1]} if part[1] else {"reasoning_content": part[0]}
            yield {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    reason = REASONS.get(model, "stop")
    if reason and ollama:
        yield {"message": {"role": "assistant", "content": ""}, "done": True, "eval_count": 42, "done_reason": reason}
    elif reason:
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
        yield {"choices": [], "usage": {"completion_tokens": 42}}
        yield "[DONE]"
