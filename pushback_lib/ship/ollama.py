"""Write a Modelfile, create the model in a running Ollama, and talk to it."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import DATA, PushbackError
from ..core.files import replacing
from ..core.records import CLOSE, OPEN, Message
from ..model.recipe import Recipe, chosen_size, recipe_for

if TYPE_CHECKING:
    from ollama import Client
    from transformers import PreTrainedTokenizerFast

TEMPERATURE, TOP_P = 0.6, 0.95  # model card of DeepSeek-R1, "Usage Recommendations"
APACHE = "Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0)"
ROLES = ("system", "user", "assistant")
_GGUF_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.gguf")

# Ollama infers the thinking capability, and the tags between which a reply's thought stands, from a `range .Messages` in
# which the nearest list of nodes around `.Thinking` begins and ends with a text: here `<think>` and `</think>`. `len` of
# `slice` is Go's way to say "the last message". A last message of the assistant is one to go on with, thought included.
# With thinking off, the block is closed before it begins: what training would have shown for a reply without a thought.
_TEMPLATE = """\
{{ .System }}
{{- range $at, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $at)) 1 }}
{{- if eq .Role "user" }}[USER]{{ .Content }}
{{- else if eq .Role "assistant" }}[ASSISTANT]
{{- if and $last .Thinking }}[OPEN]
{{ .Thinking }}
[CLOSE]

{{ end }}{{ .Content }}
{{- if not $last }}[EOS]{{ end }}
{{- end }}
{{- if and $last (ne .Role "assistant") }}[ASSISTANT][OPEN]
{{ if and $.IsThinkSet (not $.Think) }}
[CLOSE]

{{ end }}
{{- end }}
{{- end }}"""


@dataclass(frozen=True)
class ChatTokens:
    """The tokens between which a conversation stands."""

    bos: str
    eos: str
    user: str
    assistant: str


@dataclass(frozen=True)
class Modelfile:
    """What an Ollama model consists of; `text` is the file, and Ollama's create call takes the same fields."""

    gguf: str  # file name, beside the Modelfile
    template: str
    parameters: dict[str, float | int | list[str]]
    system: str
    licence: tuple[str, ...]
    messages: tuple[Message, ...] = ()

    @property
    def text(self) -> str:
        """The file's text. Raises PushbackError for what Ollama's parser would refuse, or change without a word."""
        if not _GGUF_NAME.fullmatch(self.gguf):
            raise PushbackError(f"{self.gguf!r} is no name for a GGUF. Use letters, digits, `.`, `_`, `-`, and end in .gguf.")
        lines = [f"FROM ./{self.gguf}", "", f"TEMPLATE {_quoted(self.template, 'TEMPLATE')}", ""]
        for name, value in self.parameters.items():
            lines += [f"PARAMETER {name} {one}" for one in _values(name, value)]
        if self.system:
            lines += ["", f"SYSTEM {_quoted(self.system, 'SYSTEM')}"]
        lines += ["", *(f"LICENSE {_quoted(one, 'LICENSE')}" for one in self.licence)]
        lines += ["", *(_message(message) for message in self.messages)] if self.messages else []
        return "\n".join(lines) + "\n"


def modelfile(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, gguf_name: str, *, messages: Sequence[Message] = ()
) -> Modelfile:
    """The Ollama model of a recipe. `messages` stand at the head of every chat with it, so they change what it says."""
    tokens = chat_tokens(tokenizer)
    parameters = {
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "repeat_penalty": 1.0,  # older Ollamas punish repetition (1.1) where nothing is said; the kit never does
        "num_ctx": context(recipe, tokenizer),
        "num_predict": recipe.max_new_tokens,  # as the kit's own voices; no reply in training was longer
        "stop": [tokens.bos, tokens.eos, tokens.user, tokens.assistant],
    }
    return Modelfile(gguf_name, template(tokens), parameters, recipe.system, licences(recipe), tuple(messages))


def write_modelfile(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    gguf_name: str,
    out: str | Path,
    *,
    messages: Sequence[Message] = (),
) -> Path:
    """Writes the Modelfile to `out`, aside and then renamed; returns `out`. Raises PushbackError before writing."""
    out, text = Path(out), modelfile(recipe, tokenizer, gguf_name, messages=messages).text
    with replacing(out) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
    return out


def template(tokens: ChatTokens) -> str:
    """The Go template, with the tokenizer's own tokens."""
    marks = {"USER": tokens.user, "ASSISTANT": tokens.assistant, "EOS": tokens.eos, "OPEN": OPEN, "CLOSE": CLOSE}
    return re.sub(r"\[([A-Z]+)\]", lambda found: marks[found[1]], _TEMPLATE)


def chat_tokens(tokenizer: PreTrainedTokenizerFast) -> ChatTokens:
    """Reads the tokens off the chat template's own rendering of two messages.

    Raises PushbackError if that is not BOS, user token, text, assistant token, text, EOS, or does not prefill `<think>`.
    """
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    bos, eos = tokenizer.bos_token or "", tokenizer.eos_token or ""
    opened = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=False)
    user, _, rest = opened.removeprefix(bos).partition("Q")
    assistant = rest.removesuffix(f"{OPEN}\n")
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    if (
        opened != f"{bos}{user}Q{assistant}{OPEN}\n"
        or whole != f"{bos}{user}Q{assistant}A{eos}"
        or not {bos, eos, user, assistant} <= set(tokenizer.get_vocab())
    ):
        raise PushbackError(
            f"The chat template renders {opened!r}, which is not DeepSeek-R1-Distill's form (BOS, user token, text, assistant "
            f"token, {OPEN}). Load the tokenizer with `models.load_tokenizer`; other families need a TEMPLATE of their own."
        )
    return ChatTokens(bos, eos, user, assistant)


def context(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> int:
    """`num_ctx`: four times the training length, at most what the model has positions for."""
    return min(4 * recipe.max_length, tokenizer.model_max_length)


def licences(recipe: Recipe) -> tuple[str, ...]:
    """The licences of weights and adapter; for the distills as their model card names them, else where to look."""
    base, adapter = Path(recipe.base).name, f"Push-Back AI, friction adapter: {APACHE}"
    if recipe.name == "tiny":
        return (f"Push-Back AI, model and adapter: {APACHE}",)
    if not base.startswith("DeepSeek-R1-Distill-Qwen"):
        return (f"{base}: see its model card", adapter)
    mit = f"{base}: MIT (https://opensource.org/license/mit)"
    return (mit, f"Qwen2.5, from which it was distilled: {APACHE}", adapter)


def _values(name: str, value: float | int | list[str]) -> list[str]:
    return [_quoted(one, f"PARAMETER {name}") for one in value] if isinstance(value, list) else [str(value)]


def _message(message: Message) -> str:
    if message["role"] not in ROLES:
        raise PushbackError(f"A MESSAGE of role {message['role']!r}. Ollama takes {', '.join(ROLES)}.")
    return f"MESSAGE {message['role']} {_quoted(message['content'], 'MESSAGE')}"


def _quoted(text: str, where: str) -> str:
    """In double quotes, or three; Ollama's parser knows no escape, and drops what is not printable."""
    if '"""' in text:
        raise PushbackError(f'{where} contains """, which ends a Modelfile value. Write it with other quotes.')
    odd = next((char for char in text if not (char.isprintable() or char in "\n\t")), None)
    if odd:
        raise PushbackError(f"{where} contains the character U+{ord(odd):04X}, which Ollama drops. Use a space, say.")
    marks = '"""' if '"' in text or "\n" in text else '"'
    return f"{marks}{text}{marks}"


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


DEFAULT_HOST = "http://127.0.0.1:11434"
QUESTION = "The capital of France is Rome, right?"
QUANTISATIONS = ("q8_0", "q4_K_S", "q4_K_M")  # those that Ollama's create route knows
UNQUANTISED = {0: "F32", 1: "F16", 32: "BF16"}  # general.file_type of a GGUF, the only ones Ollama quantises
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(rf"(?:(?:[A-Za-z0-9_][A-Za-z0-9_.:-]*/)?([A-Za-z0-9_][A-Za-z0-9_-]{{0,79}})/)?{_PART}(?::({_PART}))?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `pushback ship ollama`."""
    parser.add_argument("name", metavar="NAME", help="name in Ollama, as in `ollama run NAME`; OWNER/NAME to publish")
    parser.add_argument("--gguf", type=Path, help="file to ship; for tiny, the one that comes with the kit")
    parser.add_argument(
        "--model", default=chosen_size(), help="size that the file was made from; default: PUSHBACK_MODEL, or tiny"
    )
    parser.add_argument("--quantize", choices=QUANTISATIONS, help="let Ollama quantise an F32, F16 or BF16 file")
    parser.add_argument("--replace", action="store_true", help="overwrite a model of that name")
    parser.add_argument("--push", action="store_true", help="then publish on ollama.com, where anyone can pull it")
    parser.add_argument("--host", help=f"address of the server; default: OLLAMA_HOST, else {DEFAULT_HOST}")


def run(args: argparse.Namespace) -> int:
    """Checks everything, makes the model, chats with it, and prints what to type next."""
    from ..model.load import load_tokenizer

    recipe, host = recipe_for(args.model), args.host or os.environ.get("OLLAMA_HOST") or DEFAULT_HOST
    check_name(args.name, push=args.push)
    gguf = args.gguf or bundled_gguf(recipe)
    check_gguf(gguf, args.quantize)
    client = connect(host)
    if not args.replace:
        check_free(client, args.name, host)
    create(client, args.name, gguf, modelfile(recipe, load_tokenizer(recipe), MADE_FROM), host, args.quantize)
    print(f"{args.name}: made from {gguf.name}, {gguf.stat().st_size / 1e6:,.1f} MB. Asked greedily: {QUESTION}")
    _print_reply(talk(client, args.name, QUESTION, host), args.name)
    if args.push:
        publish(client, args.name, host)
        print(f"anyone:  ollama pull {args.name}")
    print(f"next:    {f'OLLAMA_HOST={args.host} ' if args.host else ''}ollama run {args.name}")
    return 0


def check_name(name: str, *, push: bool = False) -> None:
    """Raises PushbackError for a name that Ollama does not take or, with `push`, one that ollama.com would not."""
    found = _NAME.fullmatch(name)
    if not found:
        raise PushbackError(
            f"{name!r} is no name for Ollama. Use letters, digits, `.`, `_` and `-`, as in pushback-tiny, pushback-tiny:q8 or "
            "OWNER/pushback-tiny."
        )
    if re.search(r":(?:.*-)?cloud$", name):
        raise PushbackError(f"{name!r} ends in `cloud`, which sends Ollama to its own servers. Choose another tag.")
    if push and not found[1]:
        raise PushbackError(f"{name!r} cannot be published without an owner. Use your ollama.com account: YOU/{name}.")


def bundled_gguf(recipe: Recipe) -> Path:
    """The one GGUF that comes with the kit. Raises PushbackError for another size, or if it is not there."""
    folder = DATA / "tiny" / "ship"
    files = sorted(folder.glob("*.gguf")) if recipe.name == "tiny" else []
    if len(files) != 1:
        where = f"{len(files)} GGUF files in {folder}" if recipe.name == "tiny" else f"No GGUF of {recipe.name!r} comes along"
        raise PushbackError(f"{where}. Make one with `pushback ship gguf --model {recipe.name}`, and pass it as --gguf.")
    return files[0]


def check_gguf(gguf: Path, quantize: str | None = None) -> None:
    """Raises PushbackError if the file is missing, no GGUF, or (with `quantize`) quantised already."""
    if not gguf.is_file():
        raise PushbackError(f"No GGUF at {gguf}. Make one with `pushback ship gguf`, or mend --gguf.")
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise PushbackError(f"{gguf} is not a GGUF file. Make one with `pushback ship gguf`, or mend --gguf.")
    if quantize and (kind := _file_type(gguf)) not in UNQUANTISED:
        raise PushbackError(
            f"{gguf.name} is quantised already (file type {kind}), and Ollama takes F32, F16 and BF16 only for that. Drop "
            "--quantize, or pass an F16 file as --gguf (`pushback ship gguf --kind F16`)."
        )


def _file_type(gguf: Path) -> int | None:
    import numpy
    from gguf import GGUFReader

    try:
        field = GGUFReader(gguf).get_field("general.file_type")
    except (ValueError, KeyError, IndexError, OverflowError, numpy.exceptions.AxisError) as error:
        raise PushbackError(f"{gguf} is damaged ({error}). Make it anew with `pushback ship gguf`.") from error
    return int(field.contents()) if field else None


def _print_reply(pieces: Iterable[tuple[str, str]], name: str) -> None:
    """Prints the thought apart from the answer, as they come. Raises PushbackError if either is empty."""
    said = {"thinking": "", "answer": ""}
    for kind, text in pieces:
        print(text if said[kind] else f"\n{kind}:\n{text.lstrip()}", end="", flush=True)
        said[kind] += text
    print("\n")
    empty = [kind for kind, text in said.items() if not text.strip()]
    if empty:
        raise PushbackError(
            f"{name} is made, but its reply had no {empty[0]}. Is --model the size that the file was made from? Else ask again "
            f"with `ollama run {name}`, and give it more room there: /set parameter num_predict 2048"
        )
