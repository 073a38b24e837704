"""Sends planned repositories to the Hub through its own client; knows nothing about what is in them.

Large files go up one by one, each finished before the next begins, and one commit then makes all of them visible at once:
a repository is never half published. The Hub keeps what has arrived, by its SHA-256 (its Xet storage even keeps the chunks of
an unfinished file), so the same command, run again after a cut, sends only the rest. `upload_folder` would need
everything copied or linked into one folder first, and may commit a long upload in parts.

No file that is already in a repository is replaced unless `update` is set. The token stays with the client: it is put in no
message, and the text of every error is searched for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import PushbackError
from .hub_plan import Repository, Upload

if TYPE_CHECKING:
    from huggingface_hub import HfApi

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
