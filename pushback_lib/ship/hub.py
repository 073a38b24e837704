"""Publish model, adapter, GGUF files and data set on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.common import DATA, PushbackError
from ..core.folders import TRAINING_FILE
from ..data.checks import SPLITS
from ..model import package
from ..model.checks import ADAPTER_WEIGHTS, check_adapter, weight_files
from ..model.recipe import Recipe
from .card import DATA_REPO, figures_file, load_measured, write_model_card
from .gguf import HEADER_BYTES, MERGE, open_source
from .ollama import Modelfile

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi, RepoFile

SHIP = "`pushback ship all` makes it; run that first."
LOGIN = "Make a token with write access at https://huggingface.co/settings/tokens, then run `hf auth login` (or set HF_TOKEN)."
REFUSED = {
    401: f"The Hub refused the token: it is wrong or has expired. {LOGIN}",
    403: f"The token may not write there. {LOGIN}",
    412: "Somebody else changed the repository meanwhile. Look at it on the Hub, then run the command again.",
}


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
class Repository:
    """What one repository is to hold; `kind` is "model" or "dataset"."""

    name: str
    kind: str
    files: tuple[CommitOperationAdd, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.upload_info.size for file in self.files)


@dataclass(frozen=True)
class State:
    """A repository on the Hub: which of our files it lacks, which it holds in another version, and what else it holds."""

    commit: str | None  # the newest; None where there is no such repository
    private: bool
    missing: tuple[CommitOperationAdd, ...]
    changed: tuple[CommitOperationAdd, ...] = ()
    others: tuple[str, ...] = ()


def repository_names(recipe: Recipe, model: str, *, data: str | None = None, base: str | None = None) -> Names:
    """The names of all repositories, by default after the model's. Raises PushbackError for one that cannot be."""
    check_name(model)
    if recipe.base == str(package.FOLDER):
        base = base or package.REPOSITORY
    if base and not recipe.is_local:
        raise PushbackError(f"--base {base} is for a base of your own; {recipe.name} has its own on the Hub. Drop it.")
    if recipe.is_local and recipe.name != "tiny" and not base:
        raise PushbackError(f"The base is in a folder, {recipe.base}, which is not published. Pass --base OWNER/NAME: what "
                            "it is called on the Hub.")  # fmt: skip
    base = check_name(base or f"{model}-base") if recipe.is_local else recipe.base
    names = Names(model, check_name(data or f"{model}-data"), base)
    if len({name.lower() for name in (names.model, names.data, names.base)}) < 3:
        raise PushbackError(f"Model, data set and base need three names, not {model}, {names.data}, {names.base}.")
    return names


def check_name(name: str) -> str:
    """The name itself, if the Hub would take it. Raises PushbackError otherwise."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    advice = "Pass OWNER/NAME: your user or organisation name, a slash, then letters, digits, '-', '_' or '.'."
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise PushbackError(f"{name!r} is no name for a repository. {advice}")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise PushbackError(f"{name!r} is no name for a repository ({error}). {advice}") from error
    return name


def plan(
    recipe: Recipe,
    names: Names,
    folder: Path,
    *,
    adapter: Path | None = None,
    figures: Path | None = None,
    data_folder: Path = DATA / "friction",
) -> list[Repository]:
    """What is to be published, in the order in which it is: what others name comes first.

    Writes the model card into the folder if there is none yet; one that is there, perhaps edited, is published unchanged.
    Raises PushbackError for whatever is missing.
    """
    if not folder.is_dir():
        raise PushbackError(f"No folder {folder}. {SHIP} Or pass --folder.")
    own = folder / "adapter"
    adapter = adapter or (own if own.is_dir() or recipe.name != "tiny" else recipe.shipped_adapter)
    check_adapter(adapter, recipe)
    figures = figures or figures_file(recipe, folder)
    measured = load_measured(figures, adapter, recipe)
    files = [*_model_files(folder), _file("figures.json", figures), *_adapter_files(adapter, names)]
    data = Repository(names.data, "dataset", tuple(_data_files(data_folder, recipe, names)))
    card = folder / "README.md"
    if not card.is_file():
        write_model_card(folder, recipe, adapter, measured)
    files.append(_file("README.md", names.fill(card.read_text(encoding="utf-8")).encode()))
    model = Repository(names.model, "model", tuple(files))
    if recipe.name != "tiny":
        return [data, model]
    base = Path(recipe.base)  # the adapter is nothing without it
    return [Repository(names.base, "model", tuple(_files([*_plain_files(base), base / "README.md"]))), data, model]


def _file(place: str, source: Path | bytes) -> CommitOperationAdd:
    from huggingface_hub import CommitOperationAdd

    return CommitOperationAdd(place, source)


def _files(paths: Iterable[Path], under: str = "") -> list[CommitOperationAdd]:
    return [_file(under + path.name, path) for path in paths if path.is_file()]


def _model_files(folder: Path) -> list[CommitOperationAdd]:
    """Everything `pushback ship` made in `folder` but its card. Raises PushbackError for what is missing."""
    modelfile, ggufs = folder / "Modelfile", sorted(folder.glob("[!.]*.gguf"))
    for found, what in ((ggufs, "*.gguf"), (modelfile.is_file(), "Modelfile")):
        if not found:
            raise PushbackError(f"No {what} in {folder}. {SHIP}")
    paths = [*_plain_files(folder / "merged"), *ggufs, folder / "gguf.json", folder / "gguf.png"]
    return [*_files(paths), *ollama_files(modelfile.read_text(encoding="utf-8"), {path.name for path in ggufs})]


def _plain_files(folder: Path) -> list[Path]:
    """Weights, config and tokenizer of a complete model folder. Raises PushbackError for a pickle or a missing part."""
    open_source(folder)
    if not (folder / "tokenizer_config.json").is_file():
        raise PushbackError(f"No tokenizer_config.json in {folder}. {MERGE}")
    others = [path for end in ("json", "jinja", "txt") for path in folder.glob(f"[!.]*.{end}")]  # none of macOS's ._ files
    return sorted([*weight_files(folder), *others])


def _adapter_files(folder: Path, names: Names) -> list[CommitOperationAdd]:
    """The adapter's files; its base is named by the Hub id, so that PEFT finds it, and never by a path of this machine."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = names.base
    paths = [folder / name for name in (ADAPTER_WEIGHTS, TRAINING_FILE, "README.md")]
    return [_file("adapter/adapter_config.json", (json.dumps(config, indent=2) + "\n").encode()), *_files(paths, "adapter/")]


def ollama_files(text: str, ggufs: set[str]) -> list[CommitOperationAdd]:
    """The Modelfile, edited perhaps, and its parts as the three files that Ollama reads from a repository of the Hub.

    Raises PushbackError if its FROM names no GGUF file that is published beside it.
    """
    model = Modelfile.read(text)
    gguf = Path(model.gguf).name
    if gguf not in ggufs:
        raise PushbackError(
            f"The Modelfile starts FROM {model.gguf!r}, which is none of the GGUF files beside it: {', '.join(sorted(ggufs))}. "
            "Make both again with `pushback ship all`."
        )
    local = re.sub(r"^FROM\s.*$", f"FROM ./{gguf}", text, count=1, flags=re.MULTILINE | re.IGNORECASE)
    params = json.dumps(model.parameters, ensure_ascii=False, indent=1) if model.parameters else ""
    files = {"Modelfile": local, "template": model.template, "system": model.system, "params": params}
    return [_file(name, content.encode()) for name, content in files.items() if content]


def _data_files(folder: Path, recipe: Recipe, names: Names) -> list[CommitOperationAdd]:
    """The data set's files. Raises PushbackError if a split or the card is missing."""
    card, splits = folder / "README.md", [folder / f"{split}.jsonl" for split in SPLITS]
    for path in (*splits, card):
        if not path.is_file():
            raise PushbackError(f"No {path.name} in {folder}. Make the data with `pushback data make`, its card with "
                                "`pushback data card`, or pass --data-folder.")  # fmt: skip
    name, more = _second_configuration(recipe)
    text = names.fill(_data_card(card.read_text(encoding="utf-8"), name, more))
    return [_file("README.md", text.encode()), *_files(splits), *more.values()]


def _second_configuration(recipe: Recipe) -> tuple[str, dict[str, CommitOperationAdd]]:
    """Its name, and its files by split: the small language for `tiny`, else the English eval set."""
    if not recipe.examples:
        return "eval", {"test": _file("eval/test.jsonl", DATA / "eval" / "prompts.jsonl")}
    from ..core.files import to_row
    from ..language.corpus import friction_records, to_record
    from ..measure.prompts import held_out_requests

    asked = [to_record(request, number) for number, request in enumerate(held_out_requests(), 1)]
    splits = {"train": friction_records(recipe.examples, recipe.seed), "test": asked}
    lines = {split: [json.dumps(to_row(record), ensure_ascii=False) + "\n" for record in records]
             for split, records in splits.items()}  # fmt: skip
    return "language", {split: _file(f"language/{split}.jsonl", "".join(found).encode()) for split, found in lines.items()}


def _data_card(text: str, name: str, files: Mapping[str, CommitOperationAdd]) -> str:
    """The folder's card, with the repository's name in place of a path, and with the second configuration."""
    from huggingface_hub import DatasetCard

    card = DatasetCard(text)
    load = f'```python\nfrom datasets import load_dataset\n\ndata = load_dataset("{DATA_REPO}")\n```'
    card.text = re.sub(r"```python\n.*?```", lambda _: load, card.text, count=1, flags=re.DOTALL)
    paths = [{"split": split, "path": file.path_in_repo} for split, file in files.items()]
    card.data.configs = [*(card.data.get("configs") or []), {"config_name": name, "data_files": paths}]
    card.text += "\n" + Path(__file__).with_name(f"data_card_{name}.md").read_text(encoding="utf-8")
    return str(card)


def table(repositories: Sequence[Repository], public: bool) -> str:
    """What would be published: every file, its size and its place, and how large it is in all."""
    lines = []
    for repository in repositories:
        lines.append(f"{repository.kind} {repository.name}  ({'public' if public else 'private'})")
        for file in sorted(repository.files, key=lambda one: one.path_in_repo):
            source = "this command" if isinstance(file.path_or_fileobj, bytes) else _in_the_kit(Path(file.path_or_fileobj))
            lines.append(f"  {file.upload_info.size:>14,}  {file.path_in_repo:<34} from {source}")
        lines.append(f"  {repository.size:>14,}  bytes in {len(repository.files)} files")
    count = sum(len(repository.files) for repository in repositories)
    total = sum(repository.size for repository in repositories)
    return "\n".join([*lines, f"{total:,} bytes ({total / 1e6:.1f} MB) in {count} files, {len(repositories)} repositories"])


def _in_the_kit(path: Path) -> Path:
    """The path as people know it: files of the kit from its own folder on."""
    kit = DATA.parent
    return path.relative_to(kit) if path.is_relative_to(kit) else path


def check_private(repositories: Sequence[Repository]) -> None:
    """Raises PushbackError, naming every such file, if one holds a path in the home or the working folder of this machine.

    Of a large file only the beginning is read, where GGUF and safetensors files hold their texts.
    """
    private, found = _private_path(), []
    for repository in repositories:
        for file in repository.files:
            with file.as_file() as opened:
                if shown := private.search(opened.read(HEADER_BYTES)):
                    found.append(f"{file.path_in_repo} of {repository.name} ({shown[0][:200].decode(errors='replace')})")
    if found:
        raise PushbackError(f"Not to be published, since they name a path of this machine: {', '.join(found)}. Take it out of "
                            "them, or make them again with `pushback train` and `pushback ship all`.")  # fmt: skip


def _private_path() -> re.Pattern[bytes]:
    """Finds a path in the home or the working folder, as text or in JSON.

    A name must follow the folder: "/root" and "/data" alone are tokens in the vocabularies of real models.
    """
    folders = {folder for folder in (Path.home(), Path.home().resolve(), Path.cwd()) if folder != Path(folder.anchor)}
    written = {text.encode() for folder in map(str, folders) for text in (folder, json.dumps(folder)[1:-1])}
    return re.compile(b"(?:" + (b"|".join(map(re.escape, written)) or b"(?!)") + b")" + rb"[/\\]+[\w.-][^\s\"'`]*")


def publish(repositories: Sequence[Repository], *, public: bool, update: bool, say: Callable[[str], None]) -> list[str]:
    """Checks all repositories, then sends them one after the other; returns their addresses.

    Raises PushbackError before sending anything for a token, name or repository that is not in order and for a path of this
    machine, and when the connection breaks for good.
    """
    from huggingface_hub import HfApi, get_token

    check_private(repositories)
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


def _compare(api: HfApi, repository: Repository) -> State:
    """Compares what is to be published with what the Hub holds, by checksum."""
    from huggingface_hub import RepoFile
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.repo_info(repository.name, repo_type=repository.kind)
    except RepositoryNotFoundError:
        return State(None, True, repository.files)
    tree = api.list_repo_tree(repository.name, repo_type=repository.kind, recursive=True)
    there = {file.path: file for file in tree if isinstance(file, RepoFile)}
    missing = tuple(file for file in repository.files if file.path_in_repo not in there)
    found = [file for file in repository.files if file.path_in_repo in there]
    changed = tuple(file for file in found if not is_same(file, there[file.path_in_repo]))
    others = there.keys() - {file.path_in_repo for file in found} - {".gitattributes"}  # the Hub's own, in each repository
    return State(info.sha, bool(info.private), missing, changed, tuple(sorted(others)))


def is_same(ours: CommitOperationAdd, theirs: RepoFile) -> bool:
    """Whether the Hub holds our file: a large one by its SHA-256, another as git does."""
    size = ours.upload_info.size
    if size != theirs.size:
        return False
    if theirs.lfs:
        return ours.upload_info.sha256.hex() == theirs.lfs.sha256
    with ours.as_file() as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(b"blob %d\0" % size)).hexdigest() == theirs.blob_id


def _checked(api: HfApi, repository: Repository, public: bool, update: bool) -> State:
    """The repository's state, if nothing in it would be replaced or shown against the user's word."""
    name, state = repository.name, _compare(api, repository)
    if state.commit and public == state.private:
        found, wanted = ("private", "--public was given") if state.private else ("public", "--public was not given")
        raise PushbackError(
            f"{name} exists and is {found}, but {wanted}. Change its visibility in its settings on the Hub, "
            "call the command accordingly, or choose another name."
        )
    strange = [file.path_in_repo for file in state.changed] + list(state.others)
    if strange and not update:
        raise PushbackError(
            f"{name} exists and holds {len(strange)} files that are not these ({', '.join(strange[:3])}"
            f"{', …' if len(strange) > 3 else ''}). Choose another name, or pass --update to replace files of the same name "
            "(others are left alone)."
        )
    return state


def _send(api: HfApi, repository: Repository, state: State, public: bool, say: Callable[[str], None]) -> str:
    """Creates the repository if need be, sends what it lacks in one commit, and compares checksums; returns the address."""
    name, kind = repository.name, repository.kind
    url = str(api.create_repo(name, repo_type=kind, private=not public, exist_ok=True))
    todo = [*state.missing, *state.changed]
    if todo:
        message = "Publish with Push-Back AI"
        api.create_commit(name, todo, repo_type=kind, commit_message=message, parent_commit=state.commit)
        after = _compare(api, repository)
        if wrong := [file.path_in_repo for file in (*after.missing, *after.changed)]:
            raise PushbackError(f"{name} does not hold what was sent: {', '.join(wrong)}. Run the command again.")
    kept = len(repository.files) - len(todo)
    say(f"{url}: {len(todo)} files sent, {kept} were there already, all compared by checksum"
        + (f"; left alone: {', '.join(state.others)}" if state.others else ""))  # fmt: skip
    return url


@contextmanager
def explained(endpoint: str, token: str) -> Iterator[None]:
    """Turns what the client raises into an error that says what to do, without the token."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    again = "What has arrived stays there: the same command, run again, sends the rest."
    try:
        yield
    except KeyboardInterrupt as error:
        raise PushbackError(f"Stopped. {again}") from error
    except OfflineModeIsEnabled:
        raise PushbackError("HF_HUB_OFFLINE is set, so nothing may be sent. Unset it, or look with --dry-run.") from None
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        chain: list[BaseException] = [error]
        while chain[-1].__cause__:
            chain.append(chain[-1].__cause__)
        status = next((one.response.status_code for one in chain if isinstance(one, HfHubHTTPError)), None)
        reason = str(chain[-1]).replace(token, "…").splitlines() or [type(chain[-1]).__name__]
        if status in REFUSED:
            raise PushbackError(f"{REFUSED[status]} (the Hub at {endpoint} answered {status})") from None
        what = f"The connection to the Hub at {endpoint} failed ({reason[0]}). Check the network and HF_ENDPOINT."
        if status or not any(isinstance(one, httpx2.TransportError) for one in chain):
            what = f"The Hub at {endpoint} refused: {reason[0]}"
        raise PushbackError(f"{what} {again}") from None
