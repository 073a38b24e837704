"""Train the bundled base model and its tokenizer from scratch."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.files import replacing
from ..core.folders import alone, check_folder, replacing_folder
from ..language.corpus import base_documents
from ..language.world import HELD_OUT_SHARE
from ..model.family import ASSISTANT, BOS, EOS, QWEN2_SPLIT, R1_DISTILL, USER
from ..model.load import machine_name, save_base
from .guard import IGNORED

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

SPECIAL_TOKENS = (EOS, USER, ASSISTANT, BOS, "<|EOT|>")
THINK_TOKENS = ("<think>", "</think>")
N_BYTES_AND_MERGES = 625  # with the seven tokens above and the <|endoftext|> that transformers adds: 633 ids
PAD_TO = 32


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on plain texts and gives it the model family's chat template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=N_BYTES_AND_MERGES, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    bpe.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        chat_template=R1_DISTILL.chat_template(),
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


@dataclass(frozen=True)
class BaseRecipe:
    """Every number of the base model. Row widths are divisible by 256, so that K-quants stay K-quants."""

    seed: int = 1
    documents: int = 125_000
    hidden_size: int = 256
    intermediate_size: int = 768
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2
    vocab_size: int = 640
    max_positions: int = 1024
    batch_tokens: int = 4608
    muon_lr: float = 0.01
    adamw_lr: float = 3e-3
    warmup_steps: int = 30
    save_every: int = 200


def encode_corpus(recipe: BaseRecipe, system: str) -> tuple[PreTrainedTokenizerFast, list[list[int]]]:
    """Draws the corpus, trains the tokenizer on a part of it, gives the token ids of each document."""
    documents = list(base_documents(recipe.documents, recipe.seed, system))
    sample = ("\n".join(m["content"] for m in d) if isinstance(d, list) else d for d in documents[:6000])
    tokenizer = train_tokenizer(sample)
    template = R1_DISTILL.training_template()
    texts = [
        tokenizer.apply_chat_template(document, chat_template=template, tokenize=False)
        if isinstance(document, list)
        else f"{tokenizer.bos_token}{document}{tokenizer.eos_token}"
        for document in documents
    ]
    return tokenizer, tokenizer(texts, add_special_tokens=False)["input_ids"]


def batches(ids: list[list[int]], recipe: BaseRecipe) -> list[list[list[int]]]:
    """Groups documents of like length into batches of about `batch_tokens`, in a shuffled but fixed order."""
    by_width: dict[int, list[list[int]]] = {}
    for document in ids:
        by_width.setdefault(-(-len(document) // PAD_TO) * PAD_TO, []).append(document)
    grouped = []
    for width, group in sorted(by_width.items()):
        size = recipe.batch_tokens // width
        grouped += [group[at : at + size] for at in range(0, len(group) - size + 1, size)]
    random.Random(recipe.seed).shuffle(grouped)
    return grouped


def new_model(recipe: BaseRecipe) -> Qwen2ForCausalLM:
    """A randomly initialised model of DeepSeek-R1-Distill-Qwen's architecture, small."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(recipe.seed)
    return Qwen2ForCausalLM(Qwen2Config(
        vocab_size=recipe.vocab_size, hidden_size=recipe.hidden_size, intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads, num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=recipe.max_positions, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    ))  # fmt: skip


def _optimizers(model: Qwen2ForCausalLM, recipe: BaseRecipe) -> list[torch.optim.Optimizer]:
    import torch

    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_lr, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=recipe.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _schedule(step: int, steps: int, recipe: BaseRecipe) -> float:
    """Linear warm-up, then linear decay to zero; a factor on both learning rates."""
    return min((step + 1) / recipe.warmup_steps, (steps - step) / max(1, steps - recipe.warmup_steps))


def _tensors(batch: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, each of shape (documents, width); right-padded, so that no attention mask is needed."""
    import torch

    width = -(-max(map(len, batch)) // PAD_TO) * PAD_TO
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in batch])
    labels = torch.tensor([row + [IGNORED] * (width - len(row)) for row in batch])
    return ids, labels


class _Run:
    """The state that a checkpoint holds: model, optimizers, and how many steps are done."""

    def __init__(self, recipe: BaseRecipe, checkpoint: Path) -> None:
        import torch

        self.recipe, self.checkpoint, self.done = recipe, checkpoint, 0
        self.model = new_model(recipe)
        self.optimizers = _optimizers(self.model, recipe)
        if checkpoint.is_file():
            state = torch.load(checkpoint, weights_only=True)
            self.done = state["done"]
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)

    def save(self) -> None:
        import torch

        state: dict[str, Any] = {"done": self.done, "model": self.model.state_dict()}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        with replacing(self.checkpoint) as part:
            torch.save(state, part)

    def step(self, batch: list[list[int]], pad: int, factor: float) -> float:
        import torch

        ids, labels = _tensors(batch, pad)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, rate in zip(self.optimizers, (self.recipe.muon_lr, self.recipe.adamw_lr), strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()
        self.done += 1
        return loss.item()


def train_base(out: Path, work: Path, recipe: BaseRecipe, system: str) -> float:
    """Trains the base and writes weights (bf16 safetensors), tokenizer and config to `out`; returns the last loss.

    `work` holds the checkpoint (every `save_every` steps), from which an interrupted run resumes. The minutes on the card
    are those since then. Raises PushbackError if `out` may not be written, or another run uses it or the checkpoint.
    """
    check_folder(out, [work])
    checkpoint = work / f"base-seed{recipe.seed}.pt"
    with alone(out), alone(checkpoint):
        return _train(out, checkpoint, recipe, system)


def _train(out: Path, checkpoint: Path, recipe: BaseRecipe, system: str) -> float:
    from tqdm.auto import tqdm

    start = time.monotonic()
    tokenizer, ids = encode_corpus(recipe, system)
    plan = batches(ids, recipe)
    run = _Run(recipe, checkpoint)
    bar = tqdm(plan[run.done :], initial=run.done, total=len(plan), desc="base", unit="step", mininterval=2)
    loss = nan  # smoothed
    for batch in bar:
        found = run.step(batch, tokenizer.pad_token_id, _schedule(run.done, len(plan), recipe))
        loss = found if isnan(loss) else 0.98 * loss + 0.02 * found
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        if run.done % recipe.save_every == 0:
            run.save()
    with replacing_folder(out) as part:
        save_base(run.model, tokenizer, part)
        parameters, tokens = run.model.num_parameters(), sum(len(row) for batch in plan for row in batch)
        minutes = (time.monotonic() - start) / 60
        write_base_card(part, recipe, parameters=parameters, tokens=tokens, loss=loss, minutes=minutes)
    return loss


def write_base_card(folder: Path, recipe: BaseRecipe, *, parameters: int, tokens: int, loss: float, minutes: float) -> None:
    """README.md of the bundled base, from its recipe and what training measured."""
    card = (Path(__file__).parent / "base_card.md").read_text(encoding="utf-8").format(
        recipe=recipe, parameters=parameters, tokens=tokens, loss=loss, minutes=minutes, machine=machine_name(),
        held_out=HELD_OUT_SHARE,
    )  # fmt: skip
    with replacing(folder / "README.md") as part:
        part.write_text(card, encoding="utf-8")
