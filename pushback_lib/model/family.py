"""Model families: everything in which the models that the kit trains differ, in one value for each family.

Four are known. `r1-distill` is Qwen2 with DeepSeek's tokens: its prompt ends in `<think>`, so a reply begins inside the
thought. `chatml-llama` is Llama with ChatML, as SmolLM2: its own template, unchanged, knows no thinking and its prompt opens
none; the kit's replies begin with `<think>` (`core.records.join_reply`), which is therefore learned like the rest of the
thought. So both voices get one and the same prompt (dial 0 is exactly the baseline), and any GGUF of the base, with its own
template, takes the adapter. `qwen3` is dense Qwen3: its prompt opens no thought either, and its models open one by themselves;
the template keeps the thought of a reply that follows the last request and drops those of earlier ones. `smollm3` is Llama,
every fourth layer of which rotates nothing, with ChatML and a header above the system message; the kit leaves out its date.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import PushbackError
from ..core.records import OPEN

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

BOS, USER, ASSISTANT, EOS = "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"
IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
BEGIN_OF_TEXT = "<|begin_of_text|>"

APACHE = "Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0)"

# Split pattern of Qwen/Qwen2 and deepseek-ai/DeepSeek-R1-Distill-Qwen-*, tokenizer.json
QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Split pattern of Llama 3's tokenizer.json, which SmolLM3 has too: numbers in threes
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|")
DIGITS, GPT2_SPLIT = "each digit", "GPT-2's pattern"  # as `splits` names the steps `Digits` and `ByteLevel` of a tokenizer.json


@dataclass(frozen=True)
class Family:
    """What is the same in all models of one family, and different in another.

    In transformers: `model_type` and `architecture` as in config.json; `tokens` that the tokenizer must have, among them `bos`
    and `eos`; `stops`, at which a server ends a reply; the chat templates for inference and for training, of which the second
    marks as learned a reply's thought, answer and end token, nothing else; `opens_thought`: the prompt ends inside the thought;
    `thought_key`: the key of a message under which the template takes a thought to keep or drop, None where it knows content
    alone; `qkv_bias`, `qk_norm`, `nope`: the attention has biases, norms the queries and keys of each head, has layers without
    position embedding; `choose`: an example, for errors. Of the published weights: `what` they are, in the words of a card;
    `licence` as the Hub spells it, `licences` in sentences, the first of them with the name of the model in place of `{}`.

    In GGUF: `pre_tokenizer` is llama.cpp's name for the way in which `splits` cut text; `normal_forms`, one of which the
    tokenizer brings text into, and llama.cpp does not; `add_bos`: the runtime puts BOS in
    front of a rendered prompt; `gguf_template` is embedded in the file; `plain`: fields of the config with their names and the
    only values that the writer knows; `header`: more of the header's numbers, by their keys; `rotated`: the projections whose
    rows llama.cpp wants in pairs. The architecture has the same name as in config.json.

    `go_template`: the file of the TEMPLATE for Ollama; "" where the one in the GGUF serves.
    """

    name: str
    choose: str
    what: str
    licence: str
    licences: tuple[str, ...]
    model_type: str
    architecture: str
    tokens: tuple[str, ...]
    bos: str
    eos: str
    stops: tuple[str, ...]
    chat_template: Callable[[], str]
    training_template: Callable[[], str]
    opens_thought: bool
    thought_key: str | None
    qkv_bias: bool
    qk_norm: bool
    nope: bool
    splits: tuple[str, ...]
    normal_forms: tuple[str | None, ...]
    pre_tokenizer: str
    add_bos: bool
    gguf_template: str
    plain: tuple[tuple[str, str, Any], ...]
    header: Callable[[PreTrainedConfig], dict[str, int]]
    rotated: tuple[str, ...]
    go_template: str

    @property
    def before_thought(self) -> str:
        """What stands between a prompt and a given thought that the reply is to continue from."""
        return "" if self.opens_thought else f"{OPEN}\n"

    @property
    def fast(self) -> bool:
        """Whether `train.fast` knows its blocks."""
        return not (self.qk_norm or self.nope)

    def has(self, tokenizer: Mapping[str, Any]) -> bool:
        """Whether the contents of a tokenizer.json are this family's: byte pairs, splits, normal form, special tokens."""
        named = {token["content"] for token in tokenizer.get("added_tokens", [])}
        form = (tokenizer.get("normalizer") or {}).get("type")
        plain = (tokenizer.get("model") or {}).get("type") == "BPE" and form in self.normal_forms
        return plain and splits_of(tokenizer) == list(self.splits) and set(self.tokens) <= named

    def gguf_rows(self, name: str, values: Tensor, config: PreTrainedConfig) -> Tensor:
        """A matrix (or an adapter's B) with its rows in llama.cpp's order; `name` is that in Hugging Face's file.

        transformers rotates the halves of a head against each other, llama.cpp's `llama` its neighbours: `LlamaModel.permute`
        in llama.cpp's conversion/llama.py.
        """
        heads = self._rotated_heads(name, config)
        halves = values.reshape(heads, 2, -1, *values.shape[1:]) if heads else values
        return halves.swapaxes(1, 2).reshape(values.shape) if heads else values

    def hugging_face_rows(self, name: str, values: Tensor, config: PreTrainedConfig) -> Tensor:
        """The way back from `gguf_rows`."""
        heads = self._rotated_heads(name, config)
        pairs = values.reshape(heads, -1, 2, *values.shape[1:]) if heads else values
        return pairs.swapaxes(1, 2).reshape(values.shape) if heads else values

    def _rotated_heads(self, name: str, config: PreTrainedConfig) -> int:
        """How many heads this matrix has whose rows llama.cpp wants in another order; 0 where it takes them as they are."""
        part = next((part for part in self.rotated if f".{part}." in name), "")
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        return heads.get(part, 0)


def splits_of(tokenizer: Mapping[str, Any]) -> list[str]:
    """How a tokenizer.json cuts text before byte pairs are joined: its patterns, in their order."""
    before = tokenizer.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    found = {
        "Split": lambda step: step.get("pattern", {}).get("Regex"),
        "Digits": lambda step: DIGITS if step.get("individual_digits") else "digits",
        "ByteLevel": lambda step: GPT2_SPLIT if step.get("use_regex") else None,
    }
    texts = (found[step["type"]](step) if step.get("type") in found else step.get("type") for step in steps)
    return [text for text in texts if text]


def _of_trl(name: str) -> str:
    """A template that TRL carries; importing TRL for it takes longer than all the rest."""
    return (Path(find_spec("trl").origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


# What the family's published template does for system, user and assistant messages, without its tool branches: a template
# that mentions tool calls makes Ollama ignore the Modelfile's TEMPLATE. llama.cpp looks for the very words
# `content.split('</think>')` to know that replies begin inside a thought, and then gives it apart as reasoning_content.
_R1_GGUF_TEMPLATE = (
    "{%- set ns = namespace(system='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{%- set ns.system = message['content'] -%}{%- endif -%}{%- endfor -%}"
    "{{- bos_token -}}{{- ns.system -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{- '" + USER + "' + message['content'] -}}{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}{%- set content = message['content'] -%}"
    "{{- '" + ASSISTANT + "' + content.split('</think>')[-1] + '" + EOS + "' -}}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '" + ASSISTANT + "<think>\\n' -}}{%- endif -%}"
)

# SmolLM2's own, as in tokenizer_config.json and in the header of its GGUF files
_CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a "
    "helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + "
    "'\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)
_MESSAGE = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
# The same text; a reply and its end token are learned, the line feed after them is not
_CHATML_TRAINING = _CHATML.replace(
    _MESSAGE,
    "{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}{{ message['content'] + "
    "'<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}" + _MESSAGE + "{% endif %}",
)


# What Qwen3's published template says of system, user and assistant messages, without its tool branches (see above). `{0}` and
# `{1}` stand around a reply. TRL's training variant puts empty thoughts into earlier replies, which the prompt in use has not
_QWEN3 = (
    "{{%- set ns = namespace(last=-1) -%}}"
    "{{%- for message in messages -%}}{{%- if message['role'] == 'user' -%}}{{%- set ns.last = loop.index0 -%}}{{%- endif -%}}"
    "{{%- endfor -%}}"
    "{{%- for message in messages -%}}"
    "{{{{- '<|im_start|>' + message['role'] + '\n' -}}}}"
    "{{%- if message['role'] == 'assistant' -%}}"
    "{{%- set content, thought = message['content'], '' -%}}"
    "{{%- if '</think>' in content -%}}"
    "{{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') -%}}"
    "{{%- set content = content.split('</think>')[-1].lstrip('\n') -%}}{{%- endif -%}}"
    "{0}"
    "{{%- if loop.index0 > ns.last -%}}{{{{- '<think>\n' + thought + '\n</think>\n\n' + content -}}}}"
    "{{%- else -%}}{{{{- content -}}}}{{%- endif -%}}{{{{- '<|im_end|>' -}}}}"
    "{1}"
    "{{{{- '\n' -}}}}"
    "{{%- else -%}}{{{{- message['content'] + '<|im_end|>\n' -}}}}{{%- endif -%}}"
    "{{%- endfor -%}}"
    "{{%- if add_generation_prompt -%}}{{{{- '<|im_start|>assistant\n' -}}}}"
    "{{%- if enable_thinking is defined and enable_thinking is false -%}}{{{{- '<think>\n\n</think>\n\n' -}}}}{{%- endif -%}}"
    "{{%- endif -%}}"
)


# What SmolLM3's template in llama.cpp's models/templates says of system, user and assistant messages, without the rest: the
# published one adds the line "Today Date: ...". `{0}` and `{1}` stand around a reply
_SMOLLM3 = (
    "{{%- set ns = namespace(system='', mode='/think') -%}}"
    "{{%- if enable_thinking is defined and not enable_thinking -%}}{{%- set ns.mode = '/no_think' -%}}{{%- endif -%}}"
    "{{%- if messages[0]['role'] == 'system' -%}}{{%- set ns.system = messages[0]['content'] -%}}"
    "{{%- if '/no_think' in ns.system -%}}{{%- set ns.mode = '/no_think' -%}}"
    "{{%- elif '/think' in ns.system -%}}{{%- set ns.mode = '/think' -%}}{{%- endif -%}}{{%- endif -%}}"
    "{{%- set ns.system = ns.system.replace('/no_think', '').replace('/think', '').rstrip() -%}}"
    "{{{{- '<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nReasoning Mode: ' + ns.mode"
    " + '\n\n## Custom Instructions\n\n' -}}}}"
    "{{{{- (ns.system or 'You are a helpful AI assistant named SmolLM, trained by Hugging Face.') + '\n\n<|im_end|>\n' -}}}}"
    "{{%- set empty = '' if ns.mode == '/think' else '<think>\n\n</think>\n' -%}}"
    "{{%- for message in messages -%}}"
    "{{%- if message['role'] == 'assistant' -%}}"
    "{{{{- '<|im_start|>assistant\n' + empty -}}}}{0}{{{{- message['content'].lstrip('\n') + '<|im_end|>' -}}}}{1}"
    "{{{{- '\n' -}}}}"
    "{{%- elif message['role'] == 'user' -%}}"
    "{{{{- '<|im_start|>user\n' + message['content'] + '<|im_end|>\n' -}}}}{{%- endif -%}}"
    "{{%- endfor -%}}"
    "{{%- if add_generation_prompt -%}}{{{{- '<|im_start|>assistant\n' + empty -}}}}{{%- endif -%}}"
)


def _llama_header(config: PreTrainedConfig) -> dict[str, int]:
    return {"vocab_size": config.vocab_size, "rope.dimension_count": config.head_dim}


def _smollm3_header(config: PreTrainedConfig) -> dict[str, int]:
    """As Llama's. Raises PushbackError unless every fourth layer alone rotates nothing, which is all that llama.cpp knows."""
    known = [int((at + 1) % 4 != 0) for at in range(config.num_hidden_layers)]
    if list(config.no_rope_layers)[: len(known)] != known:
        raise PushbackError(f"config.json says no_rope_layers {list(config.no_rope_layers)}; llama.cpp leaves every fourth "
                            "layer of a SmolLM3 without rotation, and no other. This model cannot become a GGUF.")  # fmt: skip
    return {"vocab_size": config.vocab_size, "rope.dimension_count": config.hidden_size // config.num_attention_heads}


def _qwen3_header(config: PreTrainedConfig) -> dict[str, int]:
    return {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}


R1_DISTILL = Family(
    name="r1-distill", choose="a DeepSeek-R1-Distill-Qwen model", what="DeepSeek-R1 distill", licence="mit",
    licences=("{}: MIT (https://opensource.org/license/mit)", f"Qwen2.5, from which it was distilled: {APACHE}"),
    model_type="qwen2", architecture="Qwen2ForCausalLM",
    tokens=(BOS, USER, ASSISTANT, EOS), bos=BOS, eos=EOS, stops=(BOS, EOS, USER, ASSISTANT),
    chat_template=partial(_of_trl, "deepseek_r1_distill"),
    training_template=partial(_of_trl, "deepseek_r1_distill_training"),
    opens_thought=True, thought_key=None, qkv_bias=True, qk_norm=False, nope=False,
    splits=(QWEN2_SPLIT,), normal_forms=(None, "NFC"), pre_tokenizer="deepseek-r1-qwen",
    add_bos=True, gguf_template=_R1_GGUF_TEMPLATE,
    plain=(("use_sliding_window", "sliding window", False), ("hidden_act", "activation", "silu")),
    header=lambda config: {}, rotated=(), go_template="modelfile.gotmpl",
)  # fmt: skip
CHATML_LLAMA = Family(
    name="chatml-llama", choose="a SmolLM2 instruct model", what="SmolLM2", licence="apache-2.0",
    licences=(f"{{}}, by Hugging Face: {APACHE}",), model_type="llama", architecture="LlamaForCausalLM",
    tokens=(IM_START, IM_END), bos=IM_START, eos=IM_END, stops=(IM_END,),
    chat_template=lambda: _CHATML, training_template=lambda: _CHATML_TRAINING,
    opens_thought=False, thought_key=None, qkv_bias=False, qk_norm=False, nope=False,
    splits=(DIGITS, GPT2_SPLIT), normal_forms=(None,), pre_tokenizer="smollm", add_bos=False, gguf_template=_CHATML,
    plain=(("attention_bias", "attention bias", False), ("mlp_bias", "MLP bias", False),
           ("hidden_act", "activation", "silu")),
    header=_llama_header, rotated=("q_proj", "k_proj"), go_template="",
)  # fmt: skip
QWEN3 = Family(
    name="qwen3", choose="a dense Qwen3 model", what="Qwen3", licence="apache-2.0",
    licences=(f"{{}}, by the Qwen team: {APACHE}",), model_type="qwen3", architecture="Qwen3ForCausalLM",
    tokens=(END_OF_TEXT, IM_START, IM_END, "<think>", "</think>"), bos=END_OF_TEXT, eos=IM_END, stops=(IM_END, END_OF_TEXT),
    chat_template=partial(_of_trl, "qwen3"),
    training_template=lambda: _QWEN3.format("{%- generation -%}", "{%- endgeneration -%}"),
    opens_thought=False, thought_key="reasoning_content", qkv_bias=False, qk_norm=True, nope=False,
    splits=(QWEN2_SPLIT,), normal_forms=("NFC",), pre_tokenizer="qwen2", add_bos=False, gguf_template=_QWEN3.format("", ""),
    plain=(("use_sliding_window", "sliding window", False), ("attention_bias", "attention bias", False),
           ("hidden_act", "activation", "silu")),
    header=_qwen3_header, rotated=(), go_template="",
)  # fmt: skip
SMOLLM3 = Family(
    name="smollm3", choose="SmolLM3", what="SmolLM3", licence="apache-2.0",
    licences=(f"{{}}, by Hugging Face: {APACHE}",), model_type="smollm3", architecture="SmolLM3ForCausalLM",
    tokens=(BEGIN_OF_TEXT, IM_START, IM_END, "<think>", "</think>"), bos=BEGIN_OF_TEXT, eos=IM_END, stops=(IM_END,),
    chat_template=lambda: _SMOLLM3.format("", ""),
    training_template=lambda: _SMOLLM3.format("{%- generation -%}", "{%- endgeneration -%}"),
    opens_thought=False, thought_key=None, qkv_bias=False, qk_norm=False, nope=True,
    # "smaug-bpe", as llama.cpp's own converter calls it: ggml-org/llama.cpp#14581
    splits=(LLAMA3_SPLIT,), normal_forms=(None,), pre_tokenizer="smaug-bpe", add_bos=False,
    gguf_template=_SMOLLM3.format("", ""),
    plain=(("use_sliding_window", "sliding window", False), ("attention_bias", "attention bias", False),
           ("mlp_bias", "MLP bias", False), ("hidden_act", "activation", "silu")),
    header=_smollm3_header, rotated=("q_proj", "k_proj"), go_template="",
)  # fmt: skip
FAMILIES = (R1_DISTILL, CHATML_LLAMA, QWEN3, SMOLLM3)
_BY_TYPE = {family.model_type: family for family in FAMILIES}


def family_of(config: PreTrainedConfig) -> Family:
    """The family of a model whose config has been checked (`check_architecture`)."""
    return _BY_TYPE[config.model_type]


def normalises(pre_tokenizer: str) -> bool:
    """Whether text is to be brought into NFC for a GGUF of this pre-tokenizer, as the family's tokenizer does by itself."""
    family = next((one for one in FAMILIES if one.pre_tokenizer == pre_tokenizer), R1_DISTILL)
    return "NFC" in family.normal_forms


def check_architecture(config: dict[str, Any], where: str) -> dict[str, Any]:
    """The values of a config.json, if they are of a causal language model of a known family; else raises PushbackError."""
    kind = config.get("model_type")
    family = _BY_TYPE.get(kind)
    found = (config.get("architectures") or [family.architecture])[0] if family else kind
    if not family or found != family.architecture:
        known = ", ".join(f"{one.model_type!r} ({one.architecture})" for one in FAMILIES)
        raise PushbackError(
            f"{where} is of architecture {found!r}; this kit knows {known}. Choose "
            f"{', '.join(one.choose for one in FAMILIES)}, or turn the dial to tiny, which comes with the kit."
        )
    return config
