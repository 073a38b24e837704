"""A stand-in for an Ollama server on loopback, for the tests of `pushback ship ollama`.

It follows the routes of Ollama's source (main of 2026-08-21): paths, status codes, bodies, and the lines of its streams.
It checks each blob's SHA-256 and can fail on demand. It proves that the kit speaks the protocol, not that a real Ollama
runs the model: tests/test_ollama_live.py does that wherever OLLAMA_HOST answers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from loopback import LoopbackServer, QuietHandler

Render = Callable[[dict[str, Any], list[dict[str, str]], Any], str]  # the create call's fields, messages, think -> prompt
Say = Callable[[str], tuple[str, str, int]]  # prompt -> thought, answer, tokens of the prompt
NAME = re.compile(r"(?:(?:[\w.:-]+/)?[A-Za-z0-9_][\w-]*/)?[A-Za-z0-9_][\w.-]*(?::[A-Za-z0-9_][\w.-]*)?", re.ASCII)
SAID = ("Rome is in Italy.", "No, it is Paris.", 0)
FIELDS = {"model", "stream", "files", "template", "system", "license", "parameters", "messages", "quantize"}


class OllamaLoopback(LoopbackServer):
    """`fault` is one of: disk, digest, create, cut, unfinished, blind, mute, unauthorised, offline; "" for none."""

    def __init__(self, fault: str = "", render: Render = lambda *_: "", say: Say = lambda _: SAID) -> None:
        super().__init__(_Handler)
        self.fault, self.render, self.say = fault, render, say
        self.blobs: dict[str, bytes] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.pushed: list[str] = []
        self.chats: list[dict[str, Any]] = []
        self.host = self.url


def tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


class _Handler(QuietHandler):
    protocol_version = "HTTP/1.1"
    server: OllamaLoopback

    def do_GET(self) -> None:
        if self.path == "/api/tags":
            return self.send(200, {"models": [{"name": name, "model": name} for name in self.server.models]})
        return self.send(404, {"error": "not found"})

    def do_POST(self) -> None:
        body = self.body()
        if self.path.startswith("/api/blobs/"):
            return self._blob(self.path.removeprefix("/api/blobs/"), body)
        given = json.loads(body)
        route = {"/api/show": self._show, "/api/create": self._create, "/api/chat": self._chat, "/api/push": self._push}
        return route[self.path](given) if self.path in route else self.send(404, {"error": "not found"})

    def do_DELETE(self) -> None:
        given = json.loads(self.body())
        gone = self.server.models.pop(tagged(given["model"]), None)
        return self.send(200, b"") if gone else self._missing(given["model"])

    def _blob(self, digest: str, body: bytes) -> None:
        if not re.fullmatch(r"sha256[:-][0-9a-fA-F]{64}", digest):
            return self.send(400, {"error": "invalid digest format"})
        if self.server.fault == "disk":
            return self.send(500, {"error": "write blobs/sha256-1: no space left on device"})
        found = "sha256:" + hashlib.sha256(body[:-1] if self.server.fault == "digest" else body).hexdigest()
        if found != digest:
            return self.send(400, {"error": f'digest mismatch, expected "{digest}", got "{found}"'})
        known = digest in self.server.blobs
        self.server.blobs[digest] = body
        return self.send(200 if known else 201, b"")

    def _show(self, given: dict[str, Any]) -> None:
        model = self.server.models.get(tagged(given["model"]))
        if model is None:
            return self._missing(given["model"])
        capabilities = ["completion"] + ([] if self.server.fault == "blind" else ["thinking"])
        return self.send(200, {"template": model["template"], "system": model["system"], "capabilities": capabilities,
                                "details": {"quantization_level": (model.get("quantize") or "F32").upper()},
                                "model_info": {"general.architecture": "qwen2"}})  # fmt: skip

    def _create(self, given: dict[str, Any]) -> None:
        unknown = set(given) - FIELDS
        if unknown:
            return self.send(400, {"error": f"unknown fields: {sorted(unknown)}"})
        if not NAME.fullmatch(given["model"]):
            return self.send(400, {"error": "invalid model name"})
        if any(path.startswith(("/", ".")) for path in given["files"]):
            return self.send(400, {"error": "file path must be relative"})
        missing = [digest for digest in given["files"].values() if digest not in self.server.blobs]
        if missing:
            return self.send(500, {"error": f"open blobs/{missing[0]}: no such file or directory"})
        return self._stream(self._making(given))

    def _making(self, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
        (digest,) = given["files"].values()
        blob = self.server.blobs[digest]
        yield {"status": "parsing GGUF"}
        if not blob.startswith(b"GGUF"):
            yield {"error": "supplied file was not in GGUF format"}
            return
        if given.get("quantize"):
            status = f"quantizing F32 model to {given['quantize'].upper()}"
            for part in (0.5, 1.0):
                yield {"status": status, "digest": "0" * 19, "total": len(blob), "completed": int(part * len(blob))}
        if self.server.fault == "create":
            yield {"error": "unsupported architecture"}
            return
        if self.server.fault == "unfinished":
            return
        yield {"status": f"creating new layer {digest}"}
        if self.server.fault == "cut":
            raise ConnectionAbortedError
        yield {"status": "writing manifest"}
        self.server.models[tagged(given["model"])] = given
        yield {"status": "success"}

    def _chat(self, given: dict[str, Any]) -> None:
        model = self.server.models.get(tagged(given["model"]))
        if model is None:
            return self._missing(given["model"])
        self.server.chats.append(given)
        prompt = self.server.render(model, given["messages"], given.get("think"))
        if given.get("_debug_render_only"):
            return self.send(200, {"model": given["model"], "_debug_info": {"rendered_template": prompt}})
        thought, answer, count = self.server.say(prompt)
        pieces = [("thinking", text) for text in _cut(thought)]
        pieces += [("content", text) for text in _cut(answer)] if self.server.fault != "mute" else []
        about = {"model": given["model"], "created_at": "2026-08-21T00:00:00Z"}
        lines = [about | {"message": {"role": "assistant", "content": "", kind: text}, "done": False} for kind, text in pieces]
        about |= {"done": True, "done_reason": "stop", "prompt_eval_count": count}
        if not given.get("stream", True):
            return self.send(200, about | {"message": {"role": "assistant", "content": answer, "thinking": thought}})
        return self._stream([*lines, about | {"message": {"role": "assistant", "content": ""}}])

    def _push(self, given: dict[str, Any]) -> None:
        lines: list[dict[str, Any]] = [{"status": "retrieving manifest"}]
        if tagged(given["model"]) not in self.server.models:
            return self._stream([*lines, {"status": "couldn't retrieve manifest"}, {"error": "file does not exist"}])
        if self.server.fault == "unauthorised":
            return self._stream([*lines, {"error": "unauthorized: access denied"}])
        if self.server.fault == "offline":
            return self._stream([*lines, {"error": 'Head "https://registry.example/v2/": dial tcp: no such host'}])
        self.server.pushed.append(given["model"])
        lines += [{"status": "pushing", "digest": "sha256:1", "total": 10, "completed": done} for done in (5, 10)]
        return self._stream([*lines, {"status": "pushing manifest"}, {"status": "success"}])

    def _missing(self, name: str) -> None:
        self.send(404, {"error": f"model '{name}' not found"})

    def _stream(self, lines: Iterable[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            raw = json.dumps(line).encode() + b"\n"
            self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


def _cut(text: str, size: int = 7) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]
