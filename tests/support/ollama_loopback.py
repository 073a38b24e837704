"""A stand-in for an Ollama server on loopback, for the tests of `pushback ship ollama`.

It follows the routes of Ollama's source (main of 2026-08-21): paths, status codes, bodies, and the lines of its streams.
It checks each blob's SHA-256 and can fail on demand. It proves that the kit speaks the protocol, not that a real Ollama
runs the model: tests/ship/test_ollama_live.py does that wherever OLLAMA_HOST answers.
"""

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
PUSH_FAULTS = {
    "unauthorised": "unauthorized: access denied",
    "offline": 'Head "https://registry.example/v2/": dial tcp: no such host',
}
FIELDS = {"model", "stream", "files", "template", "system", "license", "parameters", "messages", "quantize"}


class OllamaLoopback(LoopbackServer):
    """`fault` is one of: disk, digest, create, cut, unfinished, blind, mute, or of PUSH_FAULTS; "" for none.

    `blobs` are contents by digest, `models` the create calls by name, `pushed` names, `calls` what the chat route was asked.
    """

    def __init__(self, fault: str = "", render: Render = lambda *_: "", say: Say = lambda _: SAID) -> None:
        super().__init__(_Handler)
        self.fault, self.render, self.say = fault, render, say
        self.blobs, self.models, self.pushed = {}, {}, []


def tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


class _Handler(QuietHandler):
    server: OllamaLoopback

    def do_POST(self) -> None:
        body, route = self.body(), f"{self.command} {self.path}"
        if route.startswith("POST /api/blobs/"):
            return self._blob(self.path.removeprefix("/api/blobs/"), body)
        if route == "GET /api/tags":
            return self.send(200, {"models": [{"name": name, "model": name} for name in self.server.models]})
        if route == "GET /api/version":
            return self.send(200, {"version": "0.30.0"})
        if route == "GET /v1/models":
            return self.send(
                200, {"object": "list", "data": [{"id": name, "owned_by": "library"} for name in self.server.models]}
            )
        given = json.loads(body)
        if route == "POST /api/create":
            return self._create(given)
        model = self.server.models.get(tagged(given["model"]))
        actions = {"POST /api/show": self._show, "POST /api/chat": self._chat, "POST /api/push": self._push,
                   "DELETE /api/delete": self._delete}  # fmt: skip
        if model is None or route not in actions:
            return self.send(404, {"error": f"model '{given['model']}' not found" if route in actions else "not found"})
        return actions[route](given, model)

    do_GET = do_DELETE = do_POST

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

    def _show(self, given: dict[str, Any], model: dict[str, Any]) -> None:
        capabilities = ["completion"] + ([] if self.server.fault == "blind" else ["thinking"])
        self.send(200, {"template": model["template"], "system": model["system"], "capabilities": capabilities,
                        "details": {"quantization_level": (model.get("quantize") or "F32").upper()},
                        "model_info": {"general.architecture": "qwen2"}})  # fmt: skip

    def _delete(self, given: dict[str, Any], model: dict[str, Any]) -> None:
        del self.server.models[tagged(given["model"])]
        self.send(200, b"")

    def _create(self, given: dict[str, Any]) -> None:
        missing = [digest for digest in given["files"].values() if digest not in self.server.blobs]
        if unknown := set(given) - FIELDS:
            self.send(400, {"error": f"unknown fields: {sorted(unknown)}"})
        elif not NAME.fullmatch(given["model"]):
            self.send(400, {"error": "invalid model name"})
        elif any(path.startswith(("/", ".")) for path in given["files"]):
            self.send(400, {"error": "file path must be relative"})
        elif missing:
            self.send(500, {"error": f"open blobs/{missing[0]}: no such file or directory"})
        else:
            self._lines(self._making(given))

    def _making(self, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
        (digest,) = given["files"].values()
        blob = self.server.blobs[digest]
        yield {"status": "parsing GGUF"}
        if given.get("quantize"):
            status = f"quantizing F32 model to {given['quantize'].upper()}"
            for part in (0.5, 1.0):
                yield {"status": status, "digest": "0" * 19, "total": len(blob), "completed": int(part * len(blob))}
        if self.server.fault == "create":
            yield {"error": "unsupported architecture"}
        if self.server.fault in ("create", "unfinished"):
            return
        yield {"status": f"creating new layer {digest}"}
        if self.server.fault == "cut":
            raise ConnectionAbortedError
        yield {"status": "writing manifest"}
        self.server.models[tagged(given["model"])] = given
        yield {"status": "success"}

    def _chat(self, given: dict[str, Any], model: dict[str, Any]) -> None:
        self.server.calls.append(given)
        prompt = self.server.render(model, given["messages"], given.get("think"))
        if given.get("_debug_render_only"):
            return self.send(200, {"model": given["model"], "_debug_info": {"rendered_template": prompt}})
        thought, answer, count = self.server.say(prompt)
        said = {"thinking": thought, "content": "" if self.server.fault == "mute" else answer}
        pieces = [{"content": "", kind: text[at : at + 7]} for kind, text in said.items() for at in range(0, len(text), 7)]
        about = {"model": given["model"], "created_at": "2026-08-21T00:00:00Z"}
        lines = [about | {"message": {"role": "assistant", **piece}, "done": False} for piece in pieces]
        about |= {"done": True, "done_reason": "stop", "prompt_eval_count": count}
        if not given.get("stream", True):
            return self.send(200, about | {"message": {"role": "assistant", **said}})
        return self._lines([*lines, about | {"message": {"role": "assistant", "content": ""}}])

    def _push(self, given: dict[str, Any], model: dict[str, Any]) -> None:
        lines: list[dict[str, Any]] = [{"status": "retrieving manifest"}]
        if error := PUSH_FAULTS.get(self.server.fault):
            return self._lines([*lines, {"error": error}])
        self.server.pushed.append(given["model"])
        lines += [{"status": "pushing", "digest": "sha256:1", "total": 10, "completed": done} for done in (5, 10)]
        return self._lines([*lines, {"status": "pushing manifest"}, {"status": "success"}])

    def _lines(self, lines: Iterable[dict[str, Any]]) -> None:
        self.stream((json.dumps(line).encode() + b"\n" for line in lines), "application/x-ndjson")
