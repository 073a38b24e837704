"""Publish model, adapter, GGUF files and data set on the Hugging Face Hub."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import DATA, PushbackError
from ..data.checks import SPLITS
from ..model.checks import ADAPTER_CARD, check_adapter
from ..model.recipe import Recipe, chosen_size, recipe_for
from .card import DATA_REPO, figures_file, load_measured, write_model_card
from .gguf import MERGE, open_source

if TYPE_CHECKING:
    from huggingface_hub import HfApi

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


LANGUAGE = """
## The small language

The configuration `language` is what the kit's bundled model learned from (`train`) and is measured on (`test`, with the reply
that was wanted): requests in its small written language, made by a script, in the same fields. The test split asks about
words that occur nowhere in `train`. The counts and checks above do not cover it.
"""
EVAL = """
## The eval set

The configuration `eval` is what the model is measured on: prompts that call for friction, and twins that do not. Nothing in
it may be trained on. The counts and checks above do not cover it.
"""


@dataclass(frozen=True)
class Extra:
    """A second configuration of the data set: its name, its files by split, and its section of the card."""

    name: str
    files: Mapping[str, Upload]
    section: str


def extra(recipe: Recipe) -> Extra:
    """What belongs to a model's card but is not in the splits: the small language for `tiny`, else the English eval set."""
    if not recipe.examples:
        return Extra("eval", {"test": Upload("eval/test.jsonl", DATA / "eval" / "prompts.jsonl")}, EVAL)
    from ..core.files import to_row
    from ..language.corpus import friction_records, to_record
    from ..measure.prompts import held_out_requests

    learned = friction_records(recipe.examples, recipe.seed)
    asked = [to_record(request, number) for number, request in enumerate(held_out_requests(), 1)]
    files = {split: Upload(f"language/{split}.jsonl", _lines(map(to_row, records)))
             for split, records in (("train", learned), ("test", asked))}  # fmt: skip
    return Extra("language", files, LANGUAGE)


def _lines(rows: Iterable[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def data_repository(folder: Path, recipe: Recipe, names: Names) -> Repository:
    """The data set's repository. Raises PushbackError if a split or the card is missing."""
    cure = "Make the data with `pushback data make`, its card with `pushback data card`, or pass --data-folder."
    for name in (*(f"{split}.jsonl" for split in SPLITS), "README.md"):
        if not (folder / name).is_file():
            raise PushbackError(f"No {name} in {folder}. {cure}")
    added = extra(recipe)
    uploads = (*(Upload(f"{split}.jsonl", folder / f"{split}.jsonl") for split in SPLITS), *added.files.values())
    card = data_card((folder / "README.md").read_text(encoding="utf-8"), added)
    return with_card(Repository(names.data, "dataset", uploads), names.fill(card))


def data_card(text: str, added: Extra) -> str:
    """The card from the folder, with the repository's name for a path, and the second configuration."""
    from huggingface_hub import DatasetCard

    card = DatasetCard(text)
    load = f'```python\nfrom datasets import load_dataset\n\ndata = load_dataset("{DATA_REPO}")\n```'
    card.text = re.sub(r"```python\n.*?```", lambda _: load, card.text, count=1, flags=re.DOTALL)
    files = [{"split": split, "path": upload.place} for split, upload in added.files.items()]
    card.data.configs = [*(card.data.get("configs") or []), {"config_name": added.name, "data_files": files}]
    card.text += added.section
    return str(card)


LARGE = 1 << 20  # bytes; smaller files travel inside the commit, or are quick
TOKENS = "https://huggingface.co/settings/tokens"
LOGIN = f"Make a token with write access at {TOKENS}, then run `hf auth login` (or set HF_TOKEN)."
ALWAYS_THERE = ".gitattributes"  # the Hub puts it into every new repository


@dataclass(frozen=True)
class State:
    """A repository as it stands on the Hub: what of our plan it lacks, what it holds in another version, what else it holds."""

    exists: bool
    private: bool
    missing: tuple[Upload, ...]
    changed: tuple[Upload, ...]
    others: tuple[str, ...]


def publish(repositories: Sequence[Repository], *, public: bool, update: bool, say: Callable[[str], None]) -> list[str]:
    """Checks all repositories, then sends them one after the other; returns their addresses.

    Raises PushbackError before sending anything for a token, name or repository that is not in order, and when the
    connection breaks for good.
    """
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if not token:
        raise PushbackError(f"No token for the Hub. {LOGIN}")
    api = HfApi(token=token)
    with explained(api.endpoint, token):
        for repository in repositories:
            _check_owner(api, repository.name)
        states = [_checked(api, repository, public, update) for repository in repositories]
        return [_send(api, *pair, public, say) for pair in zip(repositories, states, strict=True)]


def _check_owner(api: HfApi, name: str) -> None:
    me = api.whoami(cache=True)
    owner = name.partition("/")[0]
    owners = [me["name"], *(org["name"] for org in me.get("orgs", []))]
    if owner.lower() not in [one.lower() for one in owners]:
        raise PushbackError(
            f"The token belongs to {me['name']}, who cannot publish as {owner!r}. Choose a name under one of: "
            f"{', '.join(owners)}; or log in as somebody else with `hf auth login`."
        )
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PushbackError(f"The token of {me['name']} may only read. {LOGIN}")


def _checked(api: HfApi, repository: Repository, public: bool, update: bool) -> State:
    """The repository's state, if nothing in it would be replaced or shown against the user's word."""
    state = look(api, repository)
    if state.exists and public == state.private:
        found, wanted = ("private", "--public was given") if state.private else ("public", "--public was not given")
        raise PushbackError(
            f"{repository.name} exists and is {found}, but {wanted}. Change its visibility in its settings on the Hub, "
            "call the command accordingly, or choose another name."
        )
    strange = [upload.place for upload in state.changed] + list(state.others)
    if strange and not update:
        raise PushbackError(
            f"{repository.name} exists and holds {len(strange)} files that are not these ({', '.join(strange[:3])}"
            f"{', …' if len(strange) > 3 else ''}). Choose another name, or pass --update to replace files of the same name "
            "(others are left alone)."
        )
    return state


def look(api: HfApi, repository: Repository) -> State:
    """Compares the plan with what the Hub holds, by checksum."""
    from huggingface_hub import RepoFile
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.repo_info(repository.name, repo_type=repository.kind)
    except RepositoryNotFoundError:
        return State(False, True, repository.uploads, (), ())
    tree = api.list_repo_tree(repository.name, repo_type=repository.kind, recursive=True)
    there = {file.path: file for file in tree if isinstance(file, RepoFile)}
    planned = {upload.place for upload in repository.uploads}
    return State(
        exists=True,
        private=bool(info.private),
        missing=tuple(upload for upload in repository.uploads if upload.place not in there),
        changed=tuple(one for one in repository.uploads if one.place in there and not _same(one, there[one.place])),
        others=tuple(sorted(set(there) - planned - {ALWAYS_THERE})),
    )


def _same(upload: Upload, file: Any) -> bool:
    if upload.size != file.size:
        return False
    return upload.sha256() == file.lfs.sha256 if file.lfs else upload.git_oid() == file.blob_id


def _send(api: HfApi, repository: Repository, state: State, public: bool, say: Callable[[str], None]) -> str:
    """Creates the repository if need be, sends what it lacks, and compares checksums; returns the address."""
    from huggingface_hub import CommitOperationAdd

    url = str(api.create_repo(repository.name, repo_type=repository.kind, private=not public, exist_ok=True))
    todo = [*state.missing, *state.changed]
    if todo:
        adds = [CommitOperationAdd(one.place, one.source if isinstance(one.source, bytes) else str(one.source)) for one in todo]
        head = api.repo_info(repository.name, repo_type=repository.kind).sha
        _send_large(api, repository, todo, adds)
        api.create_commit(
            repository.name, adds, repo_type=repository.kind, commit_message="Publish with Push-Back AI", parent_commit=head
        )
        after = look(api, repository)
        if wrong := [upload.place for upload in (*after.missing, *after.changed)]:
            raise PushbackError(f"{repository.name} does not hold what was sent: {', '.join(wrong)}. Run the command again.")
    kept = len(repository.uploads) - len(todo)
    say(f"{url}: {len(todo)} files sent, {kept} were there already, all compared by checksum"
        + (f"; left alone: {', '.join(state.others)}" if state.others else ""))  # fmt: skip
    return url


def _send_large(api: HfApi, repository: Repository, todo: Sequence[Upload], adds: Sequence[Any]) -> None:
    from tqdm.auto import tqdm

    large = [(upload, add) for upload, add in zip(todo, adds, strict=True) if upload.size >= LARGE]
    total = sum(upload.size for upload, _ in large)
    with tqdm(total=total, unit="B", unit_scale=True, desc=repository.name, disable=not large) as bar:
        for upload, add in large:
            api.preupload_lfs_files(repository.name, [add], repo_type=repository.kind, free_memory=False)
            bar.update(upload.size)


@contextmanager
def explained(endpoint: str, token: str) -> Iterator[None]:
    """Turns what the client raises into an error with its cure, without the token."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    again = "What has arrived stays there: the same command, run again, sends the rest."
    try:
        yield
    except KeyboardInterrupt:
        raise PushbackError(f"Stopped. {again}") from None
    except OfflineModeIsEnabled:
        raise PushbackError("HF_HUB_OFFLINE is set, so nothing may be sent. Unset it, or look with --dry-run.") from None
    except PushbackError:
        raise
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        chain = list(_causes(error))
        status = next((one.response.status_code for one in chain if isinstance(one, HfHubHTTPError)), None)
        reason = str(chain[-1]).replace(token, "…").splitlines() or [type(chain[-1]).__name__]
        if status in _REFUSED:
            raise PushbackError(f"{_REFUSED[status]} (the Hub at {endpoint} answered {status})") from None
        if status or not any(isinstance(one, httpx2.TransportError) for one in chain):
            raise PushbackError(f"The Hub at {endpoint} refused: {reason[0]} {again}") from None
        raise PushbackError(
            f"The connection to the Hub at {endpoint} failed ({reason[0]}). Check the network and HF_ENDPOINT. {again}"
        ) from None


_REFUSED = {
    401: f"The Hub refused the token: it is wrong or has expired. {LOGIN}",
    403: f"The token may not write there. {LOGIN}",
    412: "Somebody else changed the repository meanwhile. Look at it on the Hub, then run the command again.",
}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `pushback ship hub`."""
    add = parser.add_argument
    add("name", metavar="OWNER/NAME", help="the model repository; the others are named after it")
    add("--public", action="store_true", help="let everybody see it; default: private")
    add("--dry-run", action="store_true", help="only show what would be uploaded, and how large; opens no connection")
    add("--update", action="store_true", help="replace files of the same name in repositories that exist")
    add("--data", metavar="OWNER/NAME", help="the data set's repository; default: OWNER/NAME-data")
    add("--base", metavar="OWNER/NAME", help="where the base is, if it is a folder; default for tiny: OWNER/NAME-base")
    add("--model", metavar="SIZE", default=chosen_size(), help="size on the dial; default: PUSHBACK_MODEL, or tiny")
    add("--folder", type=Path, default=Path("runs/ship"), help="what `pushback ship all` made (runs/ship)")
    add("--adapter", type=Path, help="folder of the adapter; default: FOLDER/adapter, else the one that comes with the kit")
    add("--data-folder", type=Path, default=DATA / "friction", help="folder of the data set (data/friction)")
    add("--figures", type=Path, help="figures.json of `pushback eval`, for the card; default: FOLDER's, else the kit's")


def run(args: argparse.Namespace) -> int:
    """Publishes, or shows what would be; returns 0."""
    recipe = recipe_for(args.model)
    names = _names(args, recipe)
    repositories = plan(args, recipe, names)
    if args.dry_run:
        print(table(repositories, args.public))
        return 0

    addresses = publish(repositories, public=args.public, update=args.update, say=print)
    print("\n".join(["Published:", *addresses]))
    return 0


def _names(args: argparse.Namespace, recipe: Recipe) -> Names:
    model = check_name(args.name)
    if args.base and not recipe.is_local:
        raise PushbackError(f"--base {args.base} is for a base of your own; {recipe.name} has its own on the Hub. Drop it.")
    if recipe.is_local and recipe.name != "tiny" and not args.base:
        raise PushbackError(f"The base lies in a folder, {recipe.base}, which is not published. Pass --base OWNER/NAME: what "
                            "it is called on the Hub.")  # fmt: skip
    base = check_name(args.base or f"{model}-base") if recipe.is_local else recipe.base
    names = Names(model, check_name(args.data or f"{model}-data"), base)
    if len({name.lower() for name in (names.model, names.data, names.base)}) < 3:
        raise PushbackError(f"Model, data set and base need three names, not {model}, {names.data}, {names.base}.")
    return names


def plan(args: argparse.Namespace, recipe: Recipe, names: Names) -> list[Repository]:
    """What is to be published, in the order in which it is: what others name comes first.

    Writes the model card into the folder if there is none yet; one that is there, edited perhaps, stays as it is. Raises
    PushbackError for whatever is missing.
    """
    if not args.folder.is_dir():
        raise PushbackError(f"No folder {args.folder}. {SHIP} Or pass --folder.")
    adapter = args.adapter or _adapter_folder(args.folder, recipe)
    check_adapter(adapter, recipe)
    figures = args.figures or figures_file(recipe, args.folder)
    measured = load_measured(figures, adapter, recipe.name)
    card = args.folder / "README.md"
    model = model_repository(args.folder, figures, adapter, names)
    data = data_repository(args.data_folder, recipe, names)
    if not card.is_file():
        write_model_card(args.folder, recipe, adapter, measured)
    base = [base_repository(recipe, names)] if recipe.name == "tiny" else []
    return [*base, data, with_card(model, names.fill(card.read_text(encoding="utf-8")))]


def _adapter_folder(folder: Path, recipe: Recipe) -> Path:
    own = folder / "adapter"
    return own if own.is_dir() or recipe.name != "tiny" else recipe.shipped_adapter
