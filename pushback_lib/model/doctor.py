"""Examine chat templates by rendering short conversations: what becomes of thoughts, replies and the system message.

Every family has a trap by which reasoning is lost without an error. What is looked for here was met in the wild: thoughts that
are dropped from what is trained on, empty ones that are put in, a stop token that is never learned, today's date in the prompt,
tool branches for which Ollama ignores a Modelfile's template, a system message that is dropped or made up, text that llama.cpp
cuts by another rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ..core.common import PushbackError
from ..core.records import CLOSE, OPEN, join_reply
from ..core.show import markdown_table
from .family import Family
from .load import family_for, load_tokenizer, own_cuts, own_template
from .recipe import Recipe

PURPOSES = TRAINING, CHAT, SHIPPING = ("training", "chat", "shipping")
SYSTEM, ASKED, THOUGHT, ANSWER = "Be brief.", "What of it?", "A thought of blue glass.", "An answer of red clay."
EARLIER = "An earlier thought."
KEYS = ("reasoning_content", "thinking")  # under which a message may hold its thought, beside inline
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
TOOLS = re.compile(r"tool_calls?\b|\btools\b")
WORDS = re.compile(r"[A-Za-z]+ [a-z]+ [a-z]+[^<]*")  # a sentence, and no special token

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Templates:
    """The texts by which one model is met: in a chat, in training, in a GGUF."""

    chat: str
    training: str
    gguf: str


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `spoils` names the purposes that it makes the model unfit for, `cure` what to do then."""

    what: str
    found: str
    spoils: tuple[str, ...] = ()
    cure: str = ""

    @property
    def advice(self) -> str:
        """For what it is unfit, and the cure; "" where all is well."""
        return f"Not for {', '.join(self.spoils)}. {self.cure}" if self.spoils else ""


@dataclass(frozen=True)
class Report:
    """All findings on one model, or on one template."""

    name: str
    findings: tuple[Finding, ...]

    def fit(self, purpose: str) -> bool:
        """Whether nothing was found that spoils this purpose."""
        return not any(purpose in one.spoils for one in self.findings)

    @property
    def ok(self) -> bool:
        """Whether it is fit for training, chat and shipping."""
        return all(map(self.fit, PURPOSES))

    @property
    def verdict(self) -> str:
        """For which purposes the model is fit, in one line."""
        return f"{self.name}: " + ", ".join(f"{purpose} {'yes' if self.fit(purpose) else 'NO'}" for purpose in PURPOSES)

    def _repr_markdown_(self) -> str:
        rows = [(one.what, one.found, one.advice) for one in self.findings]
        return f"{markdown_table(('looked at', 'found', 'and so'), rows)}\n\n**{self.verdict}**\n"

    def __str__(self) -> str:
        width, lines = max(len(one.what) for one in self.findings), []
        for one in self.findings:
            lines += [f"{'!' if one.spoils else ' '} {one.what:<{width}}  {one.found}"]
            lines += [f"  {'':<{width}}  {one.advice}"] if one.spoils else []
        return "\n".join([*lines, "", self.verdict])


def examine_model(recipe: Recipe) -> Report:
    """What the kit does with a model: its family's templates, the model's own, how text is cut, what pads. Needs no weights.

    Raises PushbackError where there is no tokenizer, no template in it, or no family that is known.
    """
    own, tokenizer, templates = own_template(recipe), load_tokenizer(recipe), _of_family(recipe)
    bos, eos = tokenizer.bos_token or "", tokenizer.eos_token or ""
    cut = _cut(own_cuts(recipe), family_for(recipe))
    more = (_own(own, templates.chat, bos, eos), cut, _padding(tokenizer.pad_token, eos))
    return Report(recipe.label, (*examine_templates(templates, bos, eos), *more))


def check_training(recipe: Recipe) -> None:
    """Raises PushbackError, with the cure, if what the templates make of the data would spoil a training."""
    tokenizer = load_tokenizer(recipe)
    for one in examine_templates(_of_family(recipe), tokenizer.bos_token or "", tokenizer.eos_token or ""):
        if TRAINING in one.spoils:
            raise PushbackError(f"The chat template would spoil this training ({one.what}: {one.found}). {one.cure} For all "
                                f"that was looked at: `pushback doctor {recipe.name}`.")  # fmt: skip


def _of_family(recipe: Recipe) -> Templates:
    family = family_for(recipe)
    return Templates(family.chat_template(), family.training_template(), family.gguf_template)


def examine_file(path: str | Path) -> Report:
    """A template alone, used for everything. Raises PushbackError for a file that cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PushbackError(f"{path} cannot be read as a template ({error}). Give a file of Jinja text.") from error
    return Report(Path(path).name, examine_templates(Templates(text, text, text)))


def examine_templates(templates: Templates, bos: str = "<BOS>", eos: str = "") -> tuple[Finding, ...]:
    """What templates do with a request, a reply, its thought and a system message.

    `eos` is the token that ends a reply; "" where that is not known, and anything will do.
    """
    try:
        return tuple(_Probe(templates, bos, eos).findings())
    except PushbackError as error:
        return (Finding("renders", str(error), PURPOSES, "Take the template of a text model that knows system messages."),)


def render(
    template: str, messages: Sequence[Mapping[str, str]], bos: str, eos: str, prompt: bool = False, **options: Any
) -> tuple[str, str]:
    """The text of a conversation, and that part of it which the template marks as replies.

    `prompt` adds the beginning of the next reply. Raises PushbackError for what is no template, and for one that refuses the
    conversation.
    """
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    marked = bool(MARKS.search(template))
    options |= {"bos_token": bos, "eos_token": eos, "add_generation_prompt": prompt, "return_assistant_tokens_mask": marked}
    try:
        found = render_jinja_template([list(messages)], chat_template=template, **options)
    except (TemplateError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise PushbackError(f"cannot render {len(messages)} messages: {reason}") from error
    text = found[0][0]
    return text, "".join(text[start:end] for start, end in found[1][0]) if marked else ""


def _talk(*texts: str, system: str = SYSTEM, **last: str) -> Messages:
    """System message, user, assistant, user, ...; `last` are more keys of the last message."""
    talk = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
    talk[-1].update(last)
    return [*([{"role": "system", "content": system}] if system else []), *talk]


class _Probe:
    """The conversations that are rendered, and what is read off them."""

    def __init__(self, templates: Templates, bos: str, eos: str) -> None:
        self.of, self.bos, self.eos = templates, bos, eos

    def findings(self) -> Iterator[Finding]:
        prompt = self._text(self.of.chat, _talk(ASKED), prompt=True)
        yield self._end(prompt)
        yield self._thought("thought, in the chat", self.of.chat, ())
        yield self._thought("thought, in training", self.of.training, (TRAINING,))
        yield self._earlier()
        yield from self._mask()
        yield self._date(prompt)
        yield self._system(prompt)
        tools = bool(TOOLS.search(self.of.gguf))
        cure = "Ollama then ignores a Modelfile's TEMPLATE: embed a template without those branches."
        yield Finding("tools, in the GGUF", "branches for tool calls" if tools else "none", (SHIPPING,) * tools, cure)

    def _text(self, template: str, messages: Messages, **options: Any) -> str:
        return render(template, messages, self.bos, self.eos or "<EOS>", **options)[0]

    def _end(self, prompt: str) -> Finding:
        _, asked, tail = prompt.rpartition(ASKED)
        if not asked:
            return Finding("prompt's end", "the request is not in the prompt", PURPOSES, "Take the template of a text model.")
        if CLOSE in tail:
            cure = "No thought follows such a prompt: turn thinking on (`enable_thinking=True`)."
            return Finding("prompt's end", f"{tail!r}: closes the thought at once", (TRAINING, CHAT), cure)
        how = "opens the thought" if OPEN in tail else "leaves it to the model to open a thought"
        return Finding("prompt's end", f"{tail!r}: {how}")

    def _thought(self, what: str, template: str, spoils: tuple[str, ...]) -> Finding:
        """Which ways of storing a thought survive in the last reply; the kit stores it inline."""
        inline = _talk(ASKED, join_reply(THOUGHT, ANSWER))
        ways = {"inline": inline, **{key: _talk(ASKED, ANSWER, **{key: THOUGHT}) for key in KEYS}}
        kept = [way for way, talk in ways.items() if THOUGHT in self._text(template, talk)]
        found = f"kept if stored {', '.join(kept)}" if kept else "dropped, however it is stored"
        cure = ("A model trained on this learns to answer without a thought, and no error says so: use a template for training "
                "that keeps what stands between the tags.")  # fmt: skip
        return Finding(what, found, () if "inline" in kept else spoils, cure)

    def _earlier(self) -> Finding:
        """Whether training shows the turns before the last reply as the chat does; the kit's records hold no thoughts there."""
        kept, differs = self._history(join_reply(EARLIER, ANSWER))
        _, bare_differs = self._history(ANSWER)
        found = f"their thoughts are {'kept' if kept else 'dropped'} in the chat"
        found += f", {'not' if kept else 'kept'} in training" if differs else ""
        if not bare_differs:
            return Finding("earlier replies", found)
        cure = "What is learned to follow one history then follows another: render earlier turns in training as in the chat."
        return Finding("earlier replies", f"{found}; one without a thought is not trained on as asked", (TRAINING,), cure)

    def _history(self, reply: str) -> tuple[bool, bool]:
        """Whether the chat keeps the thought of an earlier reply, and whether training shows that reply otherwise."""
        prompt = self._text(self.of.chat, _talk(ASKED, reply, ASKED), prompt=True)
        trained = self._text(self.of.training, _talk(ASKED, reply, ASKED, join_reply(THOUGHT, ANSWER)))
        return EARLIER in prompt, not trained.startswith(prompt)

    def _mask(self) -> Iterator[Finding]:
        talk = _talk(ASKED, join_reply(THOUGHT, ANSWER))
        learned = render(self.of.training, talk, self.bos, self.eos or "<EOS>")[1]
        cure = "Put `{% generation %}` and `{% endgeneration %}` around all of thought, answer and end token, and nothing else."
        if not learned:
            yield Finding("mask", "the template marks no reply", (TRAINING,), cure)
            return
        missing = [name for name, text in (("the thought", THOUGHT), ("the answer", ANSWER)) if text not in learned]
        empty = re.search(rf"{OPEN}\s*{CLOSE}", learned)
        before, _, rest = learned.partition(THOUGHT if THOUGHT in learned else ANSWER)
        found = f"lacks {' and '.join(missing)}" if missing else f"thought and answer, from {before!r} on"
        found += "; an empty thought is in it" if empty else ""
        yield Finding("mask", found, (TRAINING,) * bool(missing or empty), cure)
        end = rest.rpartition(ANSWER)[2]
        if self.eos in end if self.eos else end.strip():
            yield Finding("stop token", f"learned: {end!r}")
        else:
            found = f"not learned: the mask ends in {end!r}"
            yield Finding("stop token", found, (TRAINING,), f"The voice would never stop. {cure}")

    def _date(self, prompt: str) -> Finding:
        years = sorted(set(re.findall(r"\b20\d\d\b", prompt)))
        if str(date.today().year) in years:
            cure = "What was trained under one prompt is asked under another every day: give the date as a constant."
            return Finding("date in the prompt", "today's", (TRAINING, SHIPPING), cure)
        return Finding("date in the prompt", f"always the same, of {', '.join(years)}" if years else "none")

    def _system(self, prompt: str) -> Finding:
        if SYSTEM not in prompt:
            return Finding("system message", "dropped", PURPOSES, "Put its text in front of the first request.")
        made_up = WORDS.search(self._text(self.of.chat, _talk(ASKED, system=""), prompt=True).partition(ASKED)[0])
        return Finding("system message", f"kept; without one the template says {made_up[0][:60]!r}" if made_up else "kept")


def _own(own: str, kits: str, bos: str, eos: str) -> Finding:
    """Whether the model's own template makes the prompts that its family's makes; a line with today's date may be left out."""
    talks = [_talk(ASKED), _talk(ASKED, join_reply(EARLIER, ANSWER), ASKED)]
    prompts = [[render(template, talk, bos, eos, prompt=True)[0] for talk in talks] for template in (own, kits)]
    if prompts[0] == prompts[1]:
        return Finding("own template", "makes the prompts of its family")
    if [_undated(one) for one in prompts[0]] == prompts[1]:
        return Finding("own template", "adds today's date; the kit leaves it out, and what the kit writes has no date either")
    cure = "The kit would ask it in its family's way, and it was tuned to another: compare both before you trust a figure."
    return Finding("own template", "makes other prompts than its family's", (CHAT,), cure)


def _undated(prompt: str) -> str:
    """The prompt without its lines of this year."""
    return "".join(line for line in prompt.splitlines(keepends=True) if str(date.today().year) not in line)


def _cut(splits: list[str], family: Family) -> Finding:
    """Whether a tokenizer cuts text by its family's rule, for which llama.cpp has a name."""
    if splits == list(family.splits):
        return Finding("how text is cut", f"in llama.cpp: {family.pre_tokenizer}")
    cure = "Under another rule a GGUF reads other tokens, and nothing says so: take the base's own tokenizer."
    return Finding("how text is cut", f"by another rule than {family.choose} does", (SHIPPING,), cure)


def _padding(pad: str | None, eos: str) -> Finding:
    same = "; it ends a reply too, which is safe here, since labels come from the marks" if pad == eos else ""
    return Finding("padding", f"{pad}{same}")
