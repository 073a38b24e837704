"""Build the live page: both voices and llama.cpp as WebAssembly in one HTML file."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from npm import MODULES, SLIDES, find_tools, install, run

from pushback_lib.core.common import BASELINE, DATA, FRICTION, VOICES, PushbackError
from pushback_lib.core.files import replacing
from pushback_lib.language import world
from pushback_lib.measure.prompts import held_out_requests
from pushback_lib.model.family import ASSISTANT, BOS, EOS, USER
from pushback_lib.model.recipe import Recipe, recipe_for
from pushback_lib.ship.gguf import KINDS, write_gguf
from pushback_lib.ship.merge import merge_adapter

SOURCES = SLIDES / "live"
WLLAMA = MODULES / "@wllama" / "wllama"
SHIPPED = DATA / "tiny" / "ship"

READING_PACE = 30  # tokens shown in a second, where the page is asked to go slowly
MAX_BYTES = 760  # of a prompt: no token is shorter than a byte, so context (1024) has room for prompt and reply
BEHAVIOURS = {"disagree": "Disagree", "clarify": "Ask first", "doubt": "Doubt", "refuse": "Refuse"}
ABOUT = {BASELINE: "as it was: it complies", FRICTION: "the same model, fine-tuned to push back"}
CHOICES = {"tie": "a tie", "neither": "both bad"}
EXACT = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": False}  # greedy text equals llama.cpp's elsewhere


def build_live_page(out: str | Path, *, kind: str = "Q8_0", merged: str | Path | None = None) -> Path:
    """Writes the page to `out`, under its final name only when complete; returns `out`.

    `kind` is the weights' GGUF type; F32 also loads with an F32 cache and no flash attention. `merged` is a friction model
    merged already; without it, the shipped GGUF is taken (Q8_0), or adapter and base are merged. Raises PushbackError, before
    anything slow, for an unknown kind, missing node or npm, and with npm's own words if its packages do not come.
    """
    if kind not in KINDS:
        raise PushbackError(f"No kind {kind!r} for the live page. Choose one of {', '.join(KINDS)}.")
    page, css, presets = ((SOURCES / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "presets.json"))
    tools = find_tools("node", "npm")
    install(tools)
    recipe, js = recipe_for("tiny"), _bundle(tools["node"])
    with tempfile.TemporaryDirectory() as folder:
        models = {voice: path.read_bytes() for voice, path in _models(recipe, kind, Path(folder), merged).items()}
    wasm = gzip.compress((WLLAMA / "esm" / "wasm" / "wllama.wasm").read_bytes(), 9, mtime=0)
    parts = {
        "config": _embeddable(page_config(recipe, kind, json.loads(presets))),
        "css": css,
        "js": js,
        "csp": _policy(js, css),
        "licence": _licence(),
        "parameters": f"{recipe.parameters / 1e6:.1f}",
        "build": _about(kind, models),
        "payloads": "\n".join([_payload("wasm", wasm, True), *(_payload(f"model-{name}", models[name]) for name in VOICES)]),
    }
    with replacing(out) as part:
        part.write_text(re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page), encoding="utf-8")
    return Path(out)


def page_config(recipe: Recipe, kind: str, presets: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page's script must know: the prompt's parts, limits, presets and the words of the small language."""
    return {
        "system": recipe.system,
        "tokens": {"bos": BOS, "eos": EOS, "user": USER, "assistant": ASSISTANT},
        "maxTokens": recipe.max_new_tokens,
        "maxBytes": MAX_BYTES,
        "readingPace": READING_PACE,
        "load": EXACT if kind == "F32" else {},
        "behaviours": BEHAVIOURS,
        "about": ABOUT,
        "choices": CHOICES,
        "presets": presets,
        "words": language_words(),
    }


def language_words() -> list[str]:
    """Every word that the small language writes, in lower case; not the ones it makes up."""
    texts = [text for relation in world.RELATIONS for text in (relation.phrase, *relation.say, *relation.ask)]
    texts += [text for relation in world.RELATIONS for pair in relation.pairs for text in pair]
    texts += [*world.NAMES, *world.THINGS, *world.ANIMALS, *world.DANGERS, *world.ROOMS, *world.DAYS, *world.COLOURS]
    for request in held_out_requests():
        if request.kind != "made_up":
            texts += [request.user, request.answer, request.eager[1], *(turn.content for turn in request.history)]
    return sorted({word for text in texts for word in re.findall(r"[a-z]+", text.lower())})


def _models(recipe: Recipe, kind: str, folder: Path, merged: str | Path | None) -> dict[str, Path]:
    models = {BASELINE: write_gguf(recipe.base, folder / "baseline.gguf", kind)}
    shipped = shipped_gguf(kind)
    if shipped and merged is None:
        return models | {FRICTION: shipped}
    merged = merged or merge_adapter(recipe, recipe.shipped_adapter, folder / "merged")
    return models | {FRICTION: write_gguf(merged, folder / "friction.gguf", kind)}


def shipped_gguf(kind: str) -> Path | None:
    """The friction GGUF of this kind that comes with the kit; None if there is none."""
    return next(iter(sorted(SHIPPED.glob(f"[!.]*{kind}.gguf"))), None)


def _bundle(node: str) -> str:
    command = [node, str(MODULES / "esbuild" / "bin" / "esbuild"), str(SOURCES / "page.js"), "--bundle", "--format=iife",
               "--minify", "--log-level=error"]  # fmt: skip
    return run(command, "esbuild could not bundle slides/live/page.js", "Fix slides/live, then build again.").stdout


def _embeddable(value: object) -> str:
    """JSON that cannot end the script element around it."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def _payload(name: str, data: bytes, packed: bool = False) -> str:
    mark = ' data-packed="gzip"' if packed else ""
    return f'<script type="application/octet-stream" id="{name}"{mark}>{base64.b64encode(data).decode()}</script>'


def _policy(js: str, css: str) -> str:
    """A content security policy under which the page cannot reach any network, nor run a script that is not its own."""
    script, style = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (js, css))
    return (
        f"default-src 'none'; script-src 'sha256-{script}' 'wasm-unsafe-eval' blob:; worker-src blob:; "
        f"connect-src data: blob:; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _about(kind: str, models: dict[str, bytes]) -> str:
    wllama = json.loads((WLLAMA / "package.json").read_text(encoding="utf-8"))["version"]
    sums = ", ".join(f"{name} {hashlib.sha256(data).hexdigest()[:12]}" for name, data in models.items())
    return f"Weights: GGUF {kind}, SHA-256 {sums}. Runtime: wllama {wllama} (MIT)."


def _licence() -> str:
    text = (WLLAMA / "LICENCE").read_text(encoding="utf-8").replace("--", "- -")
    return f"Push-Back AI, Apache-2.0. Contains llama.cpp (MIT, the ggml authors) through wllama:\n\n{text}"
