"""Writes an Ollama Modelfile from a tokenizer and a recipe; knows nothing about a running Ollama.

TEMPLATE renders what the family's chat template renders, in Go's text/template: the same bytes after BOS, which the runtime
puts in front (the GGUF says so). Earlier thoughts are dropped, and the reply begins inside `<think>`, as in training.

There are no MESSAGE lines unless they are asked for: they stand ahead of every chat. With two example exchanges there, the
bundled model's over-friction rose from 0 % [0–5] to 50 % [39–61] of 80 and its friction fell from 98 % [92–100] to 59 %
[47–71] of 64 (held-out prompts, greedy), for it learned from single requests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import PushbackError
from .jsonl import replacing
from .recipe import Recipe
from .records import Message
from .replies import CLOSE, OPEN

if TYPE_CHECKING:
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
