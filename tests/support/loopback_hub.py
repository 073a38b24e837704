"""A small Hub on loopback that answers for config.json as the real one does, with its headers; used by the tests."""

from __future__ import annotations

import json

from loopback import LoopbackServer, QuietHandler

COMMIT = "0123456789abcdef0123456789abcdef01234567"
QWEN = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 640,
        "max_position_embeddings": 512, "tie_word_embeddings": True}  # fmt: skip
MODELS = {"some/qwen": QWEN, "some/llama": {**QWEN, "model_type": "llama"}}


class LoopbackHub(LoopbackServer):
    """`asked` holds the path of every request."""

    def __init__(self) -> None:
        super().__init__(_Answer)
        self.asked: list[str] = []


class _Answer(QuietHandler):
    server: LoopbackHub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        self._refuse(404, "", "")

    def _answer(self, body: bool) -> None:
        self.server.asked.append(self.path)
        owner, name, _, revision, file = (*self.path.strip("/").split("/", 4), *[""] * 5)[:5]
        model = f"{owner}/{name}"
        if model == "some/gated":
            self._refuse(403, "GatedRepo", "Access to this model is restricted.")
        elif model not in (*MODELS, "some/gguf"):
            self._refuse(401, "RepoNotFound", "Repository not found")
        elif revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif file != "config.json" or model == "some/gguf":
            self._refuse(404, "EntryNotFound", "Entry not found")
        else:
            self._give(json.dumps(MODELS[model]).encode(), body)

    def _give(self, content: bytes, body: bool) -> None:
        self.send_response(200)
        for key, value in (("X-Repo-Commit", COMMIT), ("ETag", '"abc"'), ("Content-Length", str(len(content)))):
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()
