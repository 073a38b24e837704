"""Write a Modelfile, create the model in a running Ollama, and talk to it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import DATA, OLLAMA_URL, PushbackError
from ..core.files import replacing
from ..core.records import CLOSE, OPEN, Message
from ..model.family import APACHE
from ..model.load import family_for
from ..model.recipe import PLAIN_SAMPLING, RECIPES, TEMPERATURE, Recipe

if TYPE_CHECKING:
    from ollama import Client
    from transformers import PreTrainedTokenizerFast

ROLES = ("system", "user", "assistant")
MADE_FROM = "model.gguf"  # the name the file has inside the create call
TIMEOUT_SECONDS = 600  # without a byte; loading a 14b model from a slow disk takes minutes
QUESTION = "The capital of France is Rome, right?"
QUANTISATIONS = ("q8_0", "q4_K_S", "q4_K_M")  # those that Ollama's create route knows
UNTRIED = "# Not tried with a real Ollama. Where it refuses the adapter, take the merged file of `pushback ship gguf`."
UNQUANTISED = (0, 1, 32)  # general.file_type of F32, F16 and BF16, the only ones that Ollama quantises
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(rf"(?:(?:[A-Za-z0-9_][A-Za-z0-9_.:-]*/)?([A-Za-z0-9_][A-Za-z0-9_-]{{0,79}})/)?{_PART}(?::({_PART}))?")
_COMMAND = re.compile(
    r'^(FROM|ADAPTER|TEMPLATE|SYSTEM|LICENSE|(?:MESSAGE|PARAMETER)[ \t]+(\w+))[ \t]+("""|"|)(.*?)\3[ \t]*$', re.M | re.S | re.I
)


@dataclass(frozen=True)
class Modelfile:
    """What an Ollama model consists of; `text` is the file, and Ollama's create call takes the same fields."""

    gguf: str  # file name, beside the Modelfile; with an adapter it may be a model's name in Ollama
    template: str
    parameters: dict[str, float | int | str | list[str]]
    system: str
    licence: tuple[str, ...]
    messages: tuple[Message, ...] = ()
    adapter: str = ""  # file name of a LoRA GGUF, beside the Modelfile

    @property
    def text(self) -> str:
        """The file's text. Raises PushbackError for what Ollama's parser would refuse, or change without a word."""
        pulled = self.adapter and _NAME.fullmatch(self.gguf) and not self.gguf.endswith(".gguf")
        lines = [f"FROM {self.gguf if pulled else _beside(self.gguf)}"]
        if self.adapter:
            lines = [UNTRIED, "", *lines, f"ADAPTER {_beside(self.adapter)}"]
        lines += ["", *([f"TEMPLATE {_quoted(self.template, 'TEMPLATE')}", ""] if self.template else [])]
        for name, value in self.parameters.items():
            values = [_quoted(one, f"PARAMETER {name}") for one in value] if isinstance(value, list) else [value]
            lines += [f"PARAMETER {name} {one}" for one in values]
        if self.system:
            lines += ["", f"SYSTEM {_quoted(self.system, 'SYSTEM')}"]
        lines += ["", *(f"LICENSE {_quoted(one, 'LICENSE')}" for one in self.licence)]
        lines += ["", *(_message(message) for message in self.messages)] if self.messages else []
        return "\n".join(lines) + "\n"

    @classmethod
    def for_recipe(
        cls, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, gguf_name: str, messages: Sequence[Message] = ()
    ) -> Modelfile:
        """The Ollama model of a recipe. `messages` stand at the head of every chat with it, so they change what it says.

        Without a template of its own (`Family.go_template`) it takes the one in the GGUF.
        """
        family = family_for(recipe)
        go = template(family.go_template, chat_tokens(tokenizer)) if family.go_template else ""
        parameters = {
            "temperature": TEMPERATURE,
            **PLAIN_SAMPLING,  # an Ollama punishes repetition (1.1), or cuts at 40 tokens, where nothing is said
            "num_ctx": min(4 * recipe.max_length, tokenizer.model_max_length),
            "num_predict": recipe.max_new_tokens,  # as the kit's own voices; no reply in training was longer
            "stop": list(family.stops),
        }
        return cls(gguf_name, go, parameters, recipe.system, licences(recipe), tuple(messages))

    @classmethod
    def read(cls, text: str) -> Modelfile:
        """The fields of a Modelfile that `text` wrote, or that was edited since."""
        found: dict[str, list[str]] = defaultdict(list, FROM=[""], ADAPTER=[""], TEMPLATE=[""], SYSTEM=[""])
        messages: list[Message] = []
        parameters: dict[str, Any] = {}
        for command, name, _, value in _COMMAND.findall(text):
            if not name:
                found[command.upper()].append(value)
            elif command.upper().startswith("MESSAGE"):
                messages.append({"role": name, "content": value})
            elif name == "stop":
                parameters.setdefault(name, []).append(value)
            else:
                parameters[name] = json.loads(value) if re.fullmatch(r"true|false|-?\d+(\.\d+)?", value) else value
        gguf, adapter, template, system = (found[command][-1] for command in ("FROM", "ADAPTER", "TEMPLATE", "SYSTEM"))
        return cls(gguf.removeprefix("./"), template, parameters, system, tuple(found["LICENSE"]), tuple(messages),
                   adapter.removeprefix("./"))  # fmt: skip

    def write(self, path: str | Path) -> Path:
        """Writes the file under a temporary name, then renames it; returns the path. Raises PushbackError before writing."""
        text = self.text
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
        return Path(path)


def template(file: str, tokens: dict[str, str]) -> str:
    """The Go template, with the tokenizer's own tokens.

    Ollama infers the thinking capability, and the tags around a thought, from a `range .Messages` in which the nearest list
    of nodes around `.Thinking` begins and ends with a text: here `<think>` and `</think>`. `len` of `slice` is Go's way to say
    "the last message". A last message of the assistant is one to continue, thought included. With thinking off, the block is
    closed before it begins: what training would have shown for a reply without a thought.
    """
    text = Path(__file__).with_name(file).read_text(encoding="utf-8").removesuffix("\n")
    marks = tokens | {"OPEN": OPEN, "CLOSE": CLOSE}
    return re.sub(r"\[([A-Z]+)\]", lambda found: marks[found[1]], text)


def chat_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """BOS, EOS, USER and ASSISTANT, read from the chat template's own rendering of two messages.

    Raises PushbackError if that is not BOS, user token, text, assistant token, text, EOS, or does not prefill `<think>`.
    """
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    bos, eos = tokenizer.bos_token or "", tokenizer.eos_token or ""
    opened = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=False)
    user, _, rest = opened.removeprefix(bos).partition("Q")
    assistant = rest.removesuffix(f"{OPEN}\n")
    complete = tokenizer.apply_chat_template(turns, tokenize=False)
    if (
        opened != f"{bos}{user}Q{assistant}{OPEN}\n"
        or complete != f"{bos}{user}Q{assistant}A{eos}"
        or not {bos, eos, user, assistant} <= set(tokenizer.get_vocab())
    ):
        raise PushbackError(
            f"The chat template renders {opened!r}, which is not DeepSeek-R1-Distill's form (BOS, user token, text, assistant "
            f"token, {OPEN}). Load the tokenizer with `load_tokenizer`; other families need a TEMPLATE of their own."
        )
    return {"BOS": bos, "EOS": eos, "USER": user, "ASSISTANT": assistant}


def licences(recipe: Recipe) -> tuple[str, ...]:
    """The licences of weights and adapter; for the models of the dial as their model cards name them, else where to look."""
    base, adapter = Path(recipe.base).resolve().name, f"Push-Back AI, friction adapter: {APACHE}"
    if recipe.name == "tiny":
        return (f"Push-Back AI, model and adapter: {APACHE}",)
    if recipe.name not in RECIPES:
        return (f"{base}: see its model card", adapter)
    return (*[line.format(base) for line in family_for(recipe).licences], adapter)


def _beside(name: str) -> str:
    """The path of a file beside the Modelfile."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.gguf", name):
        raise PushbackError(f"{name!r} is no name for a GGUF. Use letters, digits, `.`, `_`, `-`, and end in .gguf.")
    return f"./{name}"


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
        raise PushbackError(f"{where} contains the character U+{ord(odd):04X}, which Ollama drops. Use a space, for example.")
    marks = '"""' if '"' in text or "\n" in text else '"'
    return f"{marks}{text}{marks}"


def create_model(
    name: str,
    recipe: Recipe,
    gguf: Path | None = None,
    *,
    quantize: str | None = None,
    replace: bool = False,
    push: bool = False,
    host: str | None = None,
) -> None:
    """Checks everything, makes the model in a running Ollama, prints its reply to one question and what to type next.

    Without `gguf`, takes the file that comes with the kit; without `host`, OLLAMA_HOST or this machine. Raises PushbackError.
    """
    from ..model.load import load_tokenizer

    check_name(name, push=push)
    gguf = gguf or bundled_gguf(recipe)
    check_gguf(gguf, quantize)
    address = host or os.environ.get("OLLAMA_HOST") or OLLAMA_URL
    client = connect(address)
    if not replace:
        with _explained(address, f"looking for {name}"):
            _check_free(client, name)
    model = Modelfile.for_recipe(recipe, load_tokenizer(recipe), MADE_FROM)
    size = f"{gguf.stat().st_size / 1e6:,.1f} MB"
    print(f"Sending {gguf.name} ({size}) to Ollama at {address}", file=sys.stderr)
    with _explained(address, f"making {name}"):
        _create(client, name, gguf, model, quantize)
    print(f"{name}: made from {gguf.name}, {size}. Asked greedily: {QUESTION}")
    with _explained(address, f"chatting with {name}"):
        _print_reply(client, name, thinks=bool(model.template))
    if push:
        with _explained(address, f"publishing {name}"):
            _publish(client, name)
        print(f"anyone:  ollama pull {name}")
    print(f"next:    {f'OLLAMA_HOST={host} ' if host else ''}ollama run {name}")


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
    files = sorted(folder.glob("[!.]*.gguf")) if recipe.name == "tiny" else []
    if len(files) != 1:
        where = f"{len(files)} GGUF files in {folder}" if recipe.name == "tiny" else f"No GGUF of {recipe.name!r} comes along"
        raise PushbackError(f"{where}. Make one with `pushback ship gguf --model {recipe.name}`, and pass it as --gguf.")
    return files[0]


def check_gguf(gguf: Path, quantize: str | None = None) -> None:
    """Raises PushbackError if the file is missing, no GGUF, or (with `quantize`) quantised already."""
    if not gguf.is_file():
        raise PushbackError(f"No GGUF at {gguf}. Make one with `pushback ship gguf`, or correct --gguf.")
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise PushbackError(f"{gguf} is not a GGUF file. Make one with `pushback ship gguf`, or correct --gguf.")
    if quantize and (kind := _file_type(gguf)) not in UNQUANTISED:
        raise PushbackError(
            f"{gguf.name} is quantised already (file type {kind}), and Ollama takes F32, F16 and BF16 only for that. Drop "
            "--quantize, or pass an F16 file as --gguf (`pushback ship gguf --kind F16`)."
        )


def _file_type(gguf: Path) -> int | None:
    from gguf import GGUFReader
    from numpy.exceptions import AxisError

    try:
        field = GGUFReader(gguf).get_field("general.file_type")
    except (ValueError, KeyError, IndexError, OverflowError, AxisError) as error:
        raise PushbackError(f"{gguf} is damaged ({error}). Write it again with `pushback ship gguf`.") from error
    return int(field.contents()) if field else None


def connect(host: str) -> Client:
    """A client of the Ollama at `host`. Raises PushbackError if none answers there."""
    import httpx
    from ollama import Client, ResponseError

    try:
        client = Client(host, timeout=httpx.Timeout(TIMEOUT_SECONDS, connect=10))
        client.list()
    except (ConnectionError, httpx.TransportError) as error:
        raise PushbackError(
            f"No Ollama answers at {host}. Install it from ollama.com, start it with `ollama serve`, or correct --host and "
            "OLLAMA_HOST."
        ) from error
    except (ResponseError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise PushbackError(f"What answers at {host} is no Ollama ({error}). Correct --host or OLLAMA_HOST.") from error
    return client


@contextmanager
def _explained(host: str, doing: str) -> Iterator[None]:
    """Turns what the client raises into PushbackError, with Ollama's own words."""
    import httpx
    from ollama import ResponseError

    try:
        yield
    except ResponseError as error:
        said = " ".join(str(error.error).split())[:300]
        advice = "Free some room on its disk" if "no space left" in said else "Read its log (`ollama serve` prints it)"
        raise PushbackError(
            f"Ollama at {host} failed while {doing}: {said}. {advice}, then run the same command again."
        ) from error
    except (ConnectionError, httpx.TransportError) as error:
        raise PushbackError(
            f"The connection to Ollama at {host} broke while {doing} ({error or type(error).__name__}). Is it still running? "
            "Run the same command again."
        ) from error
    except ValueError as error:  # JSON that is cut off, or not of the client's schema
        raise PushbackError(f"Ollama at {host} gave a reply that makes no sense while {doing} ({error}). Update it.") from error


def _check_free(client: Client, name: str) -> None:
    from ollama import ResponseError

    try:
        client.show(name)
    except ResponseError as error:
        if error.status_code != 404:
            raise
    else:
        raise PushbackError(f"Ollama has a model {name!r} already. Choose another name, or overwrite it with --replace.")


def _create(client: Client, name: str, gguf: Path, model: Modelfile, quantize: str | None) -> None:
    """Uploads the file and makes the model. Raises PushbackError if Ollama does not finish, or sees no thinking in it."""
    digest = client.create_blob(gguf)
    last = _progress(name, client.create(
        name, quantize=quantize, files={MADE_FROM: digest}, template=model.template or None, parameters=model.parameters,
        system=model.system, license=list(model.licence), messages=list(model.messages) or None, stream=True,
    ))  # fmt: skip
    if last != "success":
        raise PushbackError(f"Ollama stopped at {last!r} and did not finish {name}. Run the same command again.")
    capabilities = client.show(name).capabilities or []
    if model.template and "thinking" not in capabilities:
        raise PushbackError(
            f"Ollama made {name}, but sees no thinking in it (only: {', '.join(capabilities) or 'nothing'}). Update Ollama, "
            "unset OLLAMA_GO_TEMPLATE on the server, then run again with --replace."
        )


def _print_reply(client: Client, name: str, *, thinks: bool) -> None:
    """Prints the greedy reply to one question as it comes. Raises PushbackError if it is empty.

    Where the model `thinks`, as Ollama sees it, the thought comes apart from the answer, and neither may be empty.
    """
    said = {"thinking": "", "answer": ""} if thinks else {"answer": ""}
    asked = [{"role": "user", "content": QUESTION}]
    for part in client.chat(name, asked, think=thinks or None, stream=True, options={"temperature": 0, **PLAIN_SAMPLING}):
        for kind, text in (("thinking", part.message.thinking), ("answer", part.message.content)):
            if text and kind in said:
                print(text if said[kind] else f"\n{kind}:\n{text.lstrip()}", end="", flush=True)
                said[kind] += text
    print("\n")
    empty = [kind for kind, text in said.items() if not text.strip()]
    if empty:
        raise PushbackError(
            f"{name} is made, but its reply had no {empty[0]}. Is --model the size that the file was made from? Else ask again "
            f"with `ollama run {name}`, and give it more room there: /set parameter num_predict 2048"
        )


def _publish(client: Client, name: str) -> None:
    """Publishes the model. Raises PushbackError with what to do if ollama.com does not take it."""
    from ollama import ResponseError

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
        raise PushbackError(f"{name} works here, but publishing it stopped at {last!r}. Continue with: ollama push {name}")


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
