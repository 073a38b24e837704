"""Decides which file goes where in which repository of the Hub; opens no connection and copies nothing.

A model repository, so that one name serves every tool:
    README.md, config.json, model*.safetensors, tokenizer*   transformers reads the merged model from the root
    adapter/                                                 PEFT, with subfolder="adapter"
    *.gguf                                                   llama.cpp (`-hf`) and Ollama find them by their suffix
    Modelfile                                                for `ollama create`
    template, system, params                                 what `ollama run hf.co/…` reads in place of the Modelfile
    figures.json, gguf.json, gguf.png                        the measurements behind the card, of adapter and GGUF files
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .checks import ADAPTER_CARD
from .errors import PushbackError
from .gguf_source import MERGE, open_source
from .recipe import DATA, Recipe

SHIP = "`pushback ship all` makes it; run that first."
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Names:
    """The repositories of one publication; `base` is a model id on the Hub, published along only if it is the bundled one."""

    model: str
    data: str
    base: str

    def fill(self, text: str) -> str:
        """The text with the placeholders OWNER/NAME, OWNER/NAME-data and OWNER/NAME-base replaced."""
        found = {"": self.model, "-data": self.data, "-base": self.base}
        return re.sub(r"OWNER/NAME(-data|-base|)(?![\w-])", lambda match: found[match[1]], text)


@dataclass(frozen=True)
class Upload:
    """One file: its place in the repository, and a path or the bytes themselves."""

    place: str
    source: Path | bytes

    @property
    def size(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def sha256(self) -> str:
        """What the Hub remembers a large file by."""
        return self._digest(hashlib.sha256())

    def git_oid(self) -> str:
        """What git, and so the Hub, remembers a small file by."""
        return self._digest(hashlib.sha1(b"blob %d\0" % self.size))

    def _digest(self, digest: Any) -> str:
        if isinstance(self.source, bytes):
            digest.update(self.source)
            return digest.hexdigest()
        with self.source.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True)
class Repository:
    """What one repository is to hold; `kind` is "model" or "dataset"."""

    name: str
    kind: str
    uploads: tuple[Upload, ...]

    @property
    def size(self) -> int:
        return sum(upload.size for upload in self.uploads)


def check_name(name: str) -> str:
    """The name itself, if the Hub would take it. Raises PushbackError otherwise."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    cure = "Pass OWNER/NAME: your user or organisation name, a slash, then letters, digits, '-', '_' or '.'."
    if not _NAME.fullmatch(name):
        raise PushbackError(f"{name!r} is no name for a repository. {cure}")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise PushbackError(f"{name!r} is no name for a repository ({error}). {cure}") from error
    return name


def model_repository(folder: Path, figures: Path, adapter: Path, names: Names) -> Repository:
    """Everything `pushback ship` made in `folder` but its card, with the adapter. Raises PushbackError for what is missing."""
    modelfile = folder / "Modelfile"
    ggufs = sorted(folder.glob("*.gguf"))
    for found, what in ((ggufs, "*.gguf"), (modelfile.is_file(), "Modelfile")):
        if not found:
            raise PushbackError(f"No {what} in {folder}. {SHIP}")
    uploads = [Upload("figures.json", figures), *(Upload(path.name, path) for path in plain_files(folder / "merged"))]
    tables = [folder / name for name in ("gguf.json", "gguf.png")]
    uploads += [Upload(path.name, path) for path in (*ggufs, *tables) if path.is_file()]
    uploads += ollama_files(modelfile.read_text(encoding="utf-8"), {path.name for path in ggufs})
    return Repository(names.model, "model", tuple(uploads + _adapter(adapter, names)))


def plain_files(folder: Path) -> list[Path]:
    """Weights, config and tokenizer of a whole model folder. Raises PushbackError for a pickle or a missing part."""
    open_source(folder)
    if not (folder / "tokenizer_config.json").is_file():
        raise PushbackError(f"No tokenizer_config.json in {folder}. {MERGE}")
    return sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".jinja", ".txt"))


def _adapter(folder: Path, names: Names) -> list[Upload]:
    """The adapter's files; its base is named by the Hub id, so that PEFT finds it, and never by a path of this machine."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = names.base
    uploads = [Upload("adapter/adapter_config.json", (json.dumps(config, indent=2) + "\n").encode())]
    kept = [folder / name for name in ("adapter_model.safetensors", ADAPTER_CARD, "README.md")]
    return uploads + [Upload(f"adapter/{path.name}", path) for path in kept if path.is_file()]


_BLOCK = r'(?:"""(?P<{0}_long>.*?)"""|"(?P<{0}_quoted>[^"\n]*)"|(?P<{0}_bare>[^\n]*))'
_LINE = re.compile(
    r"^(?P<command>FROM|TEMPLATE|SYSTEM|LICENSE|MESSAGE \w+|PARAMETER (?P<name>\w+))\s+" + _BLOCK.format("text") + r"[ \t]*$",
    re.MULTILINE | re.DOTALL,
)


def ollama_files(modelfile: str, ggufs: set[str]) -> list[Upload]:
    """The Modelfile, and its parts as the three files that Ollama reads from a repository of the Hub.

    Raises PushbackError if its FROM names no GGUF file that is published beside it.
    """
    parts: dict[str, str] = {}
    params: dict[str, Any] = {}
    for match in _LINE.finditer(modelfile):
        text = next(value for value in (match["text_long"], match["text_quoted"], match["text_bare"]) if value is not None)
        if match["name"] == "stop":
            params.setdefault("stop", []).append(text)
        elif match["name"]:
            params[match["name"]] = _number(text)
        else:
            parts[match["command"]] = text
    source = parts.get("FROM", "")
    if Path(source).name not in ggufs:
        raise PushbackError(
            f"The Modelfile starts FROM {source!r}, which is none of the GGUF files beside it ({', '.join(sorted(ggufs))}). "
            "Make both anew with `pushback ship all`."
        )
    local = modelfile.replace(f"FROM {source}", f"FROM ./{Path(source).name}", 1)
    files = {"Modelfile": local, "template": parts.get("TEMPLATE", ""), "system": parts.get("SYSTEM", ""),
             "params": json.dumps(params, ensure_ascii=False, indent=1) if params else ""}  # fmt: skip
    return [Upload(name, text.encode()) for name, text in files.items() if text]


def _number(text: str) -> float | int | str:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def with_card(repository: Repository, card: str) -> Repository:
    """The repository with its README.md in front."""
    return replace(repository, uploads=(Upload("README.md", card.encode()), *repository.uploads))


def base_repository(recipe: Recipe, names: Names) -> Repository:
    """The bundled base with its card, since the adapter is nothing without it."""
    folder = Path(recipe.base)
    files = [*plain_files(folder), *folder.glob("README.md")]
    return Repository(names.base, "model", tuple(Upload(path.name, path) for path in files))


def _in_the_kit(path: Path) -> Path:
    """The path as people know it: files of the kit from its own folder on."""
    kit = DATA.parent
    return path.relative_to(kit) if path.is_relative_to(kit) else path


def table(repositories: Sequence[Repository], public: bool) -> str:
    """What would be published: every file, its size and its place, and how large it is in all."""
    lines = []
    for repository in repositories:
        lines.append(f"{repository.kind} {repository.name}  ({'public' if public else 'private'})")
        for upload in sorted(repository.uploads, key=lambda one: one.place):
            source = "this command" if isinstance(upload.source, bytes) else _in_the_kit(upload.source)
            lines.append(f"  {upload.size:>14,}  {upload.place:<34} from {source}")
        lines.append(f"  {repository.size:>14,}  bytes in {len(repository.uploads)} files")
    count = sum(len(repository.uploads) for repository in repositories)
    total = sum(repository.size for repository in repositories)
    return "\n".join([*lines, f"{total:,} bytes ({total / 1e6:.1f} MB) in {count} files, {len(repositories)} repositories"])
