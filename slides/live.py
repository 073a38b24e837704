"""Builds the live page: both voices and llama.cpp as WebAssembly in one HTML file; knows nothing about training or measuring.

The sources lie in slides/live. npm packages (pinned, no install scripts) go to slides/build, which git ignores.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from pushback_lib.core.common import BASELINE, DATA, FRICTION, VOICES, PushbackError
from pushback_lib.core.files import replacing
from pushback_lib.model.recipe import Recipe, recipe_for
from pushback_lib.train.base import ASSISTANT, BOS, EOS, USER

SOURCES = DATA.parent / "slides" / "live"
BUILD = DATA.parent / "slides" / "build"
SHIPPED = DATA / "tiny" / "ship"
WLLAMA, ESBUILD = "@wllama/wllama", "esbuild"

READING_PACE = 30  # tokens shown in a second, where the page is asked to go slowly
MAX_BYTES = 760  # of a prompt: no token is shorter than a byte, so context (1024) has room for prompt and reply
BEHAVIOURS = {"disagree": "Disagree", "clarify": "Ask first", "doubt": "Doubt", "refuse": "Refuse"}
ABOUT = {BASELINE: "as it was: it complies", FRICTION: "the same model, fine-tuned to push back"}
CHOICES = {"tie": "a tie", "neither": "both bad"}
EXACT = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": False}  # greedy text equals llama.cpp's elsewhere


def build_live_page(out: str | Path, *, kind: str = "Q8_0", merged: str | Path | None = None) -> Path:
    """Writes the page to `out`, under its final name only when whole; returns `out`.

    `kind` is the weights' GGUF type; F32 also loads with an F32 cache and no flash attention. `merged` is a friction model
    merged already; without it, the shipped GGUF is taken (Q8_0), or adapter and base are merged. Raises PushbackError, before
    anything slow, for an unknown kind, missing node, npm or sources, and with npm's own words if its packages do not come.
    """
    from pushback_lib.ship.gguf import KINDS

    if kind not in KINDS:
        raise PushbackError(f"No kind {kind!r} for the live page. Choose one of {', '.join(KINDS)}.")
    sources = {name: _source(name) for name in ("page.html", "page.css", "page.js", "presets.json", "package-lock.json")}
    modules = npm_packages(SOURCES) / "node_modules"
    with tempfile.TemporaryDirectory() as folder:
        models = _models(recipe_for("tiny"), kind, Path(folder), merged)
        payloads = {f"model-{name}": models[name].read_bytes() for name in VOICES}
    parts = _parts(kind, sources, modules, payloads)
    with replacing(out) as part:
        part.write_text(re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], sources["page.html"]), encoding="utf-8")
    return Path(out)


def _parts(kind: str, sources: dict[str, str], modules: Path, payloads: dict[str, bytes]) -> dict[str, str]:
    """What stands in the places that page.html leaves open."""
    recipe, js = recipe_for("tiny"), _bundle(modules)
    wasm = (modules / WLLAMA / "esm" / "wasm" / "wllama.wasm").read_bytes()
    blocks = [_payload("wasm", gzip.compress(wasm, 9, mtime=0), True), *(_payload(*pair) for pair in payloads.items())]
    return {
        "config": _embeddable(page_config(recipe, kind, json.loads(sources["presets.json"]))),
        "css": sources["page.css"],
        "js": js,
        "csp": _policy(js, sources["page.css"]),
        "licence": _licence(modules),
        "parameters": f"{recipe.parameters / 1e6:.1f}",
        "build": _about(kind, payloads, modules),
        "payloads": "\n".join(blocks),
    }


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
    from pushback_lib.language import world
    from pushback_lib.measure.prompts import held_out_requests

    texts = [text for relation in world.RELATIONS for text in (relation.phrase, *relation.say, *relation.ask)]
    texts += [text for relation in world.RELATIONS for pair in relation.pairs for text in pair]
    texts += [*world.NAMES, *world.THINGS, *world.ANIMALS, *world.DANGERS, *world.ROOMS, *world.DAYS, *world.COLOURS]
    for request in held_out_requests():
        if request.kind != "made_up":
            texts += [request.user, request.answer, request.eager[1], *(turn.content for turn in request.history)]
    return sorted({word for text in texts for word in re.findall(r"[a-z]+", text.lower())})


def npm_packages(sources: Path) -> Path:
    """A folder whose node_modules holds exactly what the lock file of `sources` names; installed on first use."""
    lock = sources / "package-lock.json"
    folder = BUILD / f"npm-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    for tool in ("node", "npm"):
        if not shutil.which(tool):
            raise PushbackError(f"No {tool} on this machine. Install Node.js 18 or later with npm, then try again.")
    BUILD.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=BUILD))
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(sources / name, part)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        _run(command, part, "Check the connection to the npm registry, then try again.")
        if not folder.is_dir():  # another build may have been quicker
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _run(command: list[str], folder: Path, cure: str, **more: str) -> str:
    run = subprocess.run(command, cwd=folder, env=os.environ | more, capture_output=True, text=True, check=False)
    if run.returncode:
        said = [line.strip() for line in run.stderr.splitlines() if line.strip()][:4]
        raise PushbackError(f"`{' '.join(command[:2])}` failed: {' / '.join(said)}. {cure}")
    return run.stdout


def _source(name: str) -> str:
    path = SOURCES / name
    if not path.is_file():
        raise PushbackError(f"No {path}. The live page is built in a checkout of the kit; get the whole repository.")
    return path.read_text(encoding="utf-8")


def _models(recipe: Recipe, kind: str, folder: Path, merged: str | Path | None) -> dict[str, Path]:
    from pushback_lib.ship.gguf import write_gguf

    models = {BASELINE: write_gguf(recipe.base, folder / "baseline.gguf", kind)}
    shipped = shipped_gguf(kind)
    if shipped and merged is None:
        return models | {FRICTION: shipped}
    if merged is None:
        from pushback_lib.ship.merge import merge_adapter

        merged = merge_adapter(recipe, recipe.shipped_adapter, folder / "merged")
    return models | {FRICTION: write_gguf(merged, folder / "friction.gguf", kind)}


def shipped_gguf(kind: str) -> Path | None:
    """The friction GGUF of this kind that comes with the kit; None if there is none."""
    return next(iter(sorted(SHIPPED.glob(f"*{kind}.gguf"))), None)


def _bundle(modules: Path) -> str:
    tool = modules / ESBUILD / "bin" / "esbuild"
    command = ["node", str(tool), str(SOURCES / "page.js"), "--bundle", "--format=iife", "--minify", "--log-level=error"]
    return _run(command, SOURCES, "Mend slides/live.", NODE_PATH=str(modules))


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


def _about(kind: str, payloads: dict[str, bytes], modules: Path) -> str:
    wllama = json.loads((modules / WLLAMA / "package.json").read_text(encoding="utf-8"))["version"]
    sums = ", ".join(
        f"{name.removeprefix('model-')} {hashlib.sha256(data).hexdigest()[:12]}" for name, data in payloads.items()
    )
    return f"Weights: GGUF {kind}, SHA-256 {sums}. Runtime: wllama {wllama} (MIT)."


def _licence(modules: Path) -> str:
    text = (modules / WLLAMA / "LICENCE").read_text(encoding="utf-8").replace("--", "- -")
    return f"Push-Back AI, Apache-2.0. Contains llama.cpp (MIT, the ggml authors) through wllama:\n\n{text}"
