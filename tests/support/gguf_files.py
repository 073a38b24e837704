"""The friction model merged and written as GGUF, made once for all tests of a run; and conversations for templates."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from pushback_lib.core.common import BASELINE
from pushback_lib.core.records import prompt_messages
from pushback_lib.language.corpus import draw_requests
from pushback_lib.model.recipe import recipe_for
from pushback_lib.ship.gguf import K_QUANTS, quantise, write_gguf
from pushback_lib.ship.lora import write_lora
from pushback_lib.ship.merge import merge_adapter

TINY = recipe_for("tiny")
FOLDER = Path(tempfile.mkdtemp(prefix="pushback-gguf-"))
atexit.register(shutil.rmtree, FOLDER)


def talk(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in pairs]


def held_out_talks(seed: int) -> list[list[dict[str, str]]]:
    """The held-out requests, one of each kind, as messages."""
    return [prompt_messages(one.user, TINY.system, one.history) for one in draw_requests(1, seed, held_out=True)]


TALKS = {
    "one turn": talk(("user", "What is the sky?")),
    "system": talk(("system", TINY.system), ("user", "Why?")),
    "several turns": talk(("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")),
    "a thought in the history": talk(("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb"), ("user", "c")),
    "two closing tags": talk(("user", "a"), ("assistant", "x</think>y</think>z"), ("user", "c")),
    "empty texts": talk(("system", ""), ("user", "")),
    "spaces, newlines and braces stay": talk(("system", "  {{ x }}\n"), ("user", '\n {% if %} it\'s "so" \\n \n\n')),
    "two system messages": talk(("system", "first"), ("user", "a"), ("system", "second")),
    "quotes, emoji, CJK": talk(("user", 'it\'s "so" 🙂 你好 é')),
}


@functools.cache
def merged() -> Path:
    """The bundled adapter in the bundled base, 16-bit."""
    return merge_adapter(TINY, TINY.shipped_adapter, FOLDER / "merged")


@functools.cache
def friction(kind: str) -> Path:
    out = FOLDER / f"friction-{kind}.gguf"
    return quantise(friction("F32"), out, kind) if kind in K_QUANTS else write_gguf(merged(), out, kind)


@functools.cache
def baseline(kind: str) -> Path:
    """The bundled base alone."""
    return write_gguf(TINY.base, FOLDER / f"baseline-{kind}.gguf", kind, TINY, BASELINE)


@functools.cache
def adapter(kind: str) -> Path:
    """The bundled adapter as a LoRA GGUF."""
    return write_lora(TINY, TINY.shipped_adapter, FOLDER / f"adapter-{kind}.gguf", kind)


TEXTS = [
    "I've told you he's there, don't; I'M", "3 33 1314151 3.14 0x1F ٣٤ ½ ²", " \n \n\n \t\t \t\n  x  y \r\n z", "🙂 👩‍👩‍👧 ❤️",
    "我想 apple 1314151 天～", "Български עברית हिन्दी", "<think>\nWell.\n</think>\n\nNo.<|im_end|>\n",
    "<| im_start|> <repo_name>x", "cafe\u0301 A\u030a \ufb01, which this family does not normalise", "",
]  # fmt: skip


def same_words(server, folder, tokenizer, talks, most, endless=()):
    """Greedy ids and probabilities in llama.cpp and in transformers, at F32; gives how many tokens that were.

    `endless`: the ids that end a reply, where random weights are to speak to the limit.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model, count = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), 0
    for messages in talks:
        prompt = server.render(messages)
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            both = model.generate(ids, do_sample=False, max_new_tokens=most, suppress_tokens=[*endless] or None,
                                  pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
            theirs = torch.log_softmax(model(ids).logits[0, -1].double(), -1).numpy()
        expected, found = both[0, ids.shape[1] :].tolist(), server.complete(prompt, most, ignore_eos=bool(endless))
        assert list(found.ids) == expected, found.text
        count += len(expected)
        likely = theirs > -12  # below that llama.cpp rounds what it sends
        assert abs(server.log_probabilities(server.tokenise(prompt)) - theirs)[likely].max() < 1e-3
    return count
