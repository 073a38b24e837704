"""Speaks to a running Ollama through its own Python client; knows nothing about the kit's models or commands.

Ollama gets the fields that the Modelfile holds, so that `ollama create -f Modelfile` makes the same model.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import PushbackError

if TYPE_CHECKING:
    from ollama import Client

    from .modelfile import Modelfile

MADE_FROM = "model.gguf"  # the name the file has inside the create call
TIMEOUT = 600  # seconds without a byte; loading a 14b model from a slow disk takes minutes


def connect(host: str) -> Client:
    """A client of the Ollama at `host`. Raises PushbackError if none answers there."""
    import httpx
    from ollama import Client, ResponseError

    try:
        timeout = httpx.Timeout(TIMEOUT, connect=10)
        client = Client(host, timeout=timeout, event_hooks={"request": [_watch_upload]})
        client.list()
    except (ConnectionError, httpx.TransportError) as error:
        raise PushbackError(
            f"No Ollama answers at {host}. Install it from ollama.com, start it with `ollama serve`, or mend --host and "
            "OLLAMA_HOST."
        ) from error
    except (ResponseError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise PushbackError(f"What answers at {host} is no Ollama ({error}). Mend --host or OLLAMA_HOST.") from error
    return client


def check_free(client: Client, name: str, host: str) -> None:
    """Raises PushbackError if a model of that name is there."""
    from ollama import ResponseError

    with _explained(host, f"looking for {name}"):
        try:
            client.show(name)
        except ResponseError as error:
            if error.status_code == 404:
                return
            raise
    raise PushbackError(f"Ollama has a model {name!r} already. Choose another name, or overwrite it with --replace.")


def create(client: Client, name: str, gguf: Path, model: Modelfile, host: str, quantize: str | None = None) -> None:
    """Uploads the file and makes the model. Raises PushbackError with Ollama's own words, or if it cannot think."""
    with _explained(host, f"making {name}"):
        digest = client.create_blob(gguf)
        last = _progress(name, client.create(
            name, quantize=quantize, files={MADE_FROM: digest}, template=model.template, parameters=model.parameters,
            system=model.system, license=list(model.licence), messages=list(model.messages) or None, stream=True,
        ))  # fmt: skip
        capabilities = client.show(name).capabilities or [] if last == "success" else []
    if last != "success":
        raise PushbackError(f"Ollama at {host} stopped at {last!r} and did not finish {name}. Run the same command again.")
    if "thinking" not in capabilities:
        raise PushbackError(
            f"Ollama made {name}, but sees no thinking in it (only: {', '.join(capabilities) or 'nothing'}). Update Ollama, "
            "unset OLLAMA_GO_TEMPLATE on the server, then run again with --replace."
        )


def talk(client: Client, name: str, question: str, host: str) -> Iterator[tuple[str, str]]:
    """The greedy reply to one question, as it comes: pieces of ("thinking", text), then of ("answer", text)."""
    with _explained(host, f"chatting with {name}"):
        asked = [{"role": "user", "content": question}]
        for part in client.chat(name, asked, think=True, stream=True, options={"temperature": 0}):
            if part.message.thinking:
                yield "thinking", part.message.thinking
            if part.message.content:
                yield "answer", part.message.content


def publish(client: Client, name: str, host: str) -> None:
    """Publishes the model. Raises PushbackError with the cure if ollama.com does not take it."""
    from ollama import ResponseError

    with _explained(host, f"publishing {name}"):
        try:
            last = _progress(f"push {name}", client.push(name, stream=True))
        except ResponseError as error:
            if not re.search(r"unauthor|not authorized|access denied|\b40[13]\b", str(error.error), re.IGNORECASE):
                raise
            raise PushbackError(
                f"{name} is made and works here, but ollama.com did not take it ({error.error}). Sign in with `ollama signin` "
                f"on the server's machine, with the account {name.split('/')[-2]!r}, then: ollama push {name}"
            ) from error
    if last != "success":
        raise PushbackError(f"{name} works here, but publishing it stopped at {last!r}. Go on with: ollama push {name}")


def _progress(what: str, events: Iterable[Any]) -> str:
    """Shows the events of a long call; returns the last status."""
    from tqdm.auto import tqdm

    last = ""
    with tqdm(desc=what, unit="B", unit_scale=True, file=sys.stderr, mininterval=0.5) as bar:
        for event in events:
            last = event.status or last
            bar.set_postfix_str(last, refresh=False)
            if event.total:
                bar.total = event.total
                bar.update((event.completed or 0) - bar.n)
    return last


def _watch_upload(request: Any) -> None:
    """Lets a progress bar follow the body of a blob's upload; the client shows none."""
    if "/api/blobs/" not in request.url.path:
        return
    import httpx
    from tqdm.auto import tqdm

    class Watched(httpx.SyncByteStream):
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __iter__(self) -> Iterator[bytes]:
            total = int(request.headers.get("content-length", 0)) or None
            with tqdm(desc="upload", total=total, unit="B", unit_scale=True, mininterval=0.5) as bar:
                for chunk in self.stream:
                    yield chunk
                    bar.update(len(chunk))

    request.stream = Watched(request.stream)


@contextmanager
def _explained(host: str, doing: str) -> Iterator[None]:
    """Turns what the client raises into PushbackError, with Ollama's own words."""
    import httpx
    from ollama import ResponseError

    try:
        yield
    except ResponseError as error:
        said = " ".join(str(error.error).split())[:300]
        cure = "Free some room on its disk" if "no space left" in said else "Read its log (`ollama serve` prints it)"
        raise PushbackError(
            f"Ollama at {host} failed while {doing}: {said}. {cure}, then run the same command again."
        ) from error
    except (ConnectionError, httpx.TransportError) as error:
        raise PushbackError(
            f"The connection to Ollama at {host} broke while {doing} ({error or type(error).__name__}). Is it still running? "
            "Run the same command again."
        ) from error
    except ValueError as error:  # JSON that is cut off, or not of the client's schema
        raise PushbackError(f"Ollama at {host} gave a reply that makes no sense while {doing} ({error}). Update it.") from error
