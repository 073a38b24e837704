"""Plan memory, time and rough cost before anything is downloaded, as text and as a widget."""

from __future__ import annotations

import dataclasses
from bisect import bisect
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from ..core.common import PushbackError
from ..core.show import SavedCopy
from ..model.load import DRIVER_GIB, LIBRARIES_GIB, bitsandbytes_runs, family_for
from ..model.recipe import RECIPES, Recipe, config_for, parameters, recipe_for
from . import memory
from .memory import Setting, adapter_parameters, head_size, linears

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SLOW, FAST = 0.15, 0.40  # share of a card's datasheet speed that training reaches
COLOURS = ("#1f77b4", "#6baed6", "#c6dbef", "#2ca02c", "#98df8a", "#d6e9c6", "#ff7f0e", "#ffbb78", "#bbbbbb")
GIB = 2**30
STEP = 128  # sequences are tried in steps of so many tokens
MAX_BATCH = 256  # that is tried
DATA_SIZE = {"english": (1887, 320), "bundled": (3600, 130)}  # examples, and their mean tokens with the system prompt
# the same of a mixture's sources, in SmolLM2's tokens: of one record, of all of data/easy, of one of the 600 shortest records
MIXED_SIZE = {"language": (1, 171), "easy": (1232, 200), "friction": (1, 280)}
LENGTHS, BATCHES = (128, 256, 512, 1024, 2048, 4096, 8192), (1, 2, 4, 8, 16, 32)  # to choose from in a notebook


@dataclass(frozen=True)
class Card:
    """`gib`: what torch reports as its memory; `tflops`: dense tensor speed in 16 bit, fp32 sums; `price`: dollars an hour.

    Prices: deploybase.ai/articles/runpod-gpu-pricing and /tesla-t4-price, March 2026, spot to on-demand.
    """

    name: str
    gib: float
    tflops: float
    source: str
    price: tuple[float, float] | None = None
    bf16: bool = True
    cuda: bool = True


CARDS: dict[str, Card] = {
    "laptop": Card("laptop without a GPU (16 GB)", 10.0, 0.5, "assumed: 10 GiB free, eight cores with AVX2", cuda=False),
    "t4": Card("T4", 14.75, 65, "nvidia.com, T4 datasheet: 16 GB, 65 TFLOPS in fp16, no bf16", (0.20, 0.76), bf16=False),
    "l4": Card("L4", 22.0, 121, "nvidia.com, L4 datasheet: 24 GB, 242 TFLOPS with sparsity, half of it without", (0.44, 0.78)),
    "4090": Card("RTX 4090", 23.5, 165, "NVIDIA Ada architecture paper, appendix A: 24 GB, 165.2 TFLOPS", (0.34, 0.60)),
    "a100": Card("A100 80 GB", 79.1, 312, "nvidia.com, A100 datasheet: 80 GB, 312 TFLOPS", (1.39, 2.45)),
    "h100": Card("H100 SXM", 79.1, 989, "nvidia.com, H100 datasheet: 80 GB, 1,979 TFLOPS with sparsity", (2.69, 4.76)),
    "h200": Card("H200 SXM", 139.0, 989, "nvidia.com, H200 datasheet: 141 GB, 1,979 TFLOPS with sparsity", (3.59, 6.35)),
}


def card_for(gpu: str | float) -> Card:
    """The card of a name (`t4`), or one of so many GiB as torch reports them (`16`).

    Of the latter only the memory is known: it is planned with an adapter in fp32, as on a T4, which takes more. Raises
    PushbackError for any other name, and for memory that no card has.
    """
    key = str(gpu).lower().replace("rtx", "").replace("_", " ").strip()
    if key in CARDS:
        return CARDS[key]
    try:
        gib = float(key)
    except ValueError as error:
        raise PushbackError(
            f"No card called {gpu!r}. Choose one of: {', '.join(CARDS)}; or give its memory in GiB, as in 16."
        ) from error
    if not 0 < gib <= 1024:
        raise PushbackError(f"A card of {gib:g} GiB? Give the memory of one card in GiB, as in 16.")
    return Card(f"card of {gib:g} GiB", gib, 0.0, "given", bf16=False)


def operations_a_token(config: PreTrainedConfig, setting: Setting) -> float:
    """Floating-point operations for one token of training: two a weight, forward, again where checkpointed, and back.

    Frozen weights need no gradient of their own, so the way back costs two, not four; the adapter's do. Attention is counted in
    full, without what a causal kernel leaves out.
    """
    passes = 3 if setting.checkpointing else 2
    blocks = config.num_hidden_layers * sum(inputs * outputs for inputs, outputs in linears(config))
    head = 3 * 2 * config.vocab_size * config.hidden_size * (setting.loss_share if setting.cuda else 1.0)
    attention = 4 * setting.length * config.num_attention_heads * head_size(config) * config.num_hidden_layers
    adapter = 2 * (passes + 1) * adapter_parameters(config, setting.rank)
    return passes * (2 * blocks + attention) + head + adapter


def hours(config: PreTrainedConfig, setting: Setting, card: Card, tokens: float) -> tuple[float, float] | None:
    """From best to worst, for so many tokens in all; None where the card's speed is not known."""
    if not card.tflops:
        return None
    at_full_speed = operations_a_token(config, setting) * tokens / (card.tflops * 1e12) / 3600
    return at_full_speed / FAST, at_full_speed / SLOW


@dataclass(frozen=True)
class Part:
    """One part of the memory: its name, and bytes."""

    name: str
    bytes: int

    @property
    def gib(self) -> float:
        return self.bytes / GIB


@dataclass(frozen=True)
class MemoryPlan:
    """What training a recipe takes on a card; lengths and batches are 0 where nothing fits, time and cost are ranges."""

    recipe: Recipe
    card: Card
    setting: Setting
    parameters: int
    trained: int
    parts: tuple[Part, ...]
    max_length: int
    max_batch: int
    hours: tuple[float, float] | None
    dollars: tuple[float, float] | None

    @property
    def tensor_bytes(self) -> int:
        """The peak that an allocator measures: all parts but the overhead of driver, libraries and allocator."""
        return sum(part.bytes for part in self.parts[:-1])

    @property
    def gib(self) -> float:
        return sum(part.gib for part in self.parts)

    @property
    def fits(self) -> bool:
        return self.gib <= self.card.gib

    def rows(self) -> list[tuple[str, str]]:
        """(part, GiB) with the total last."""
        digits = 2 if self.gib >= 1 else 3
        return [(part.name, f"{part.gib:.{digits}f}") for part in self.parts] + [("total", f"{self.gib:.{digits}f}")]

    def verdict(self) -> str:
        """Whether it fits, and what the most is."""
        what = f"{self.recipe.name} at sequence {self.setting.length:,} and batch {self.setting.batch} on {self.card.name}"
        if self.fits:
            return (f"Fits: {what} takes about {self.gib:.1f} of {self.card.gib:g} GiB. Longest sequence at this batch: "
                    f"{self.max_length:,}; largest batch at this sequence: {self.max_batch}.")  # fmt: skip
        if self.max_length:
            also = f"sequence {self.max_length:,} at this batch"
        elif self.max_batch:
            also = f"batch {self.max_batch} at this sequence"
        else:
            return f"Does not fit: {what}. {advice(self.recipe, self.card.gib, self.card.cuda)}"
        return f"Does not fit: {what} takes about {self.gib:.1f} of {self.card.gib:g} GiB. What would fit: {also}."

    def estimate(self) -> str:
        """Time and cost, and that both are estimates; neither for what does not fit."""
        if not self.fits:
            return ""
        if self.hours is None:
            return (
                f"Time: not known for a card of which only the memory is given; name the card ({', '.join(list(CARDS)[1:])})."
            )
        passes = "pass" if self.recipe.epochs == 1 else "passes"
        cost = f", {span(*self.dollars, 'dollars', 2)} in rent" if self.dollars else ""
        return (f"Time, an estimate: {span(*self.hours, 'h')} for {self.recipe.epochs} {passes} over the data{cost}, at "
                f"{SLOW:.0%} to {FAST:.0%} of the datasheet's {self.card.tflops:g} TFLOPS.")  # fmt: skip

    def __str__(self) -> str:
        """For a terminal: the parts with a bar of characters, then what fits, then time."""
        most = max(part.gib for part in self.parts)
        bars = [*("#" * round(30 * part.gib / most) for part in self.parts), ""]
        lines = [f"{name:<26}{gib:>8} GiB  {bar}".rstrip() for (name, gib), bar in zip(self.rows(), bars, strict=True)]
        counts = f"{self.parameters:,} parameters, {self.trained:,} more in the adapter (rank {self.setting.rank})"
        return "\n".join(
            [f"{self.recipe.name} on {self.card.name}: {counts}", *lines, self.verdict(), self.estimate()]
        ).rstrip()

    def _repr_html_(self) -> str:
        """A bar as wide as the card (or the plan, if that is wider), its parts named and counted beside it."""
        scale = 100 / max(self.card.gib, self.gib)
        pieces = "".join(
            f'<div title="{escape(part.name)}: {part.gib:.2f} GiB" '
            f'style="width:{part.gib * scale:.3f}%;background:{colour}"></div>'
            for part, colour in zip(self.parts, COLOURS, strict=False)
        )
        legend = "".join(
            '<tr><td><span style="display:inline-block;width:1em;height:1em;'
            f'background:{colour};border:1px solid #555"></span> '
            f"{escape(name)}</td><td style='text-align:right'>{gib} GiB</td></tr>"
            for (name, gib), colour in zip(self.rows(), (*COLOURS[: len(self.parts)], "transparent"), strict=True)
        )
        edge = f"position:absolute;left:{self.card.gib * scale:.2f}%;top:-3px;bottom:-3px;border-left:3px solid"
        label = f"Memory of {self.recipe.name} on {self.card.name}: {self.gib:.1f} of {self.card.gib:g} GiB"
        return (f'<div role="img" aria-label="{escape(label)}" style="position:relative;display:flex;height:1.6em;'
                f'border:1px solid #555;max-width:48em">{pieces}<div style="{edge}"></div></div>'
                f"<p><b>{escape(self.verdict())}</b></p><table>{legend}</table><p>{escape(self.estimate())}</p>")  # fmt: skip


def span(low: float, high: float, unit: str, digits: int = 1) -> str:
    """`1.2–3.4 h`; minutes where an hour is too coarse."""
    if unit == "h" and high < 2:
        return f"{60 * low:.0f}–{60 * high:.0f} min"
    return f"{low:.{digits}f}–{high:.{digits}f} {unit}"


def setting_for(recipe: Recipe, card: Card, length: int | None = None, batch: int | None = None) -> Setting:
    """How the kit would train this recipe on that card: see `model.load.compute_dtype` and `trainable_dtype`."""
    length, batch = length or recipe.max_length, batch or recipe.batch
    four_bit = recipe.four_bit and (card.cuda or bitsandbytes_runs())
    compute, adapter = (2, 2 if card.bf16 and four_bit else 4) if card.cuda else (4, 2) if four_bit else (2, 4)
    optimizer = recipe.optimizer if card.cuda else "adamw_torch"
    return Setting(batch, length, recipe.rank, recipe.checkpointing, compute, adapter, optimizer, card.cuda,
                   padded=batch > 1, four_bit=four_bit)  # fmt: skip


def plan(
    recipe: Recipe | str, gpu: Card | str | float, length: int | None = None, batch: int | None = None,
    examples: int | None = None,
) -> MemoryPlan:  # fmt: skip
    """The plan for a recipe, or a size on the dial, on a card (`t4`, `4090`, …) or on so many GiB.

    `examples`: of the data set; by default what the recipe trains on. Raises PushbackError for unknown names and for lengths or
    batches that no model takes.
    """
    recipe = recipe_for(recipe) if isinstance(recipe, str) else recipe
    card = gpu if isinstance(gpu, Card) else card_for(gpu)
    config = config_for(recipe)
    check_size(config, length, batch)
    setting = setting_for(recipe, card, length, batch)
    count, mean_tokens = data_size(recipe)
    took = hours(config, setting, card, recipe.epochs * (examples or recipe.examples or count) * mean_tokens)
    cost = (card.price[0] * took[0], card.price[1] * took[1]) if card.price and took else None  # cheapest and fastest first
    return MemoryPlan(
        recipe, card, setting, parameters(config), memory.adapter_parameters(config, recipe.rank), parts(config, setting),
        max_length(config, setting, card), max_batch(config, setting, card), took, cost,
    )  # fmt: skip


def data_size(recipe: Recipe) -> tuple[int, float]:
    """How many examples a recipe trains on, and their mean tokens."""
    if not recipe.mixture:
        return DATA_SIZE[recipe.language]
    parts = [(getattr(recipe.mixture, name) * count, tokens) for name, (count, tokens) in MIXED_SIZE.items()]
    count = sum(number for number, _ in parts)
    return count, sum(number * tokens for number, tokens in parts) / count


def check_size(config: PreTrainedConfig, length: int | None, batch: int | None) -> None:
    """Raises PushbackError for a length of sequence or a batch that no training of this model takes."""
    if length is not None and not 2 <= length <= config.max_position_embeddings:
        raise PushbackError(
            f"A sequence of {length} tokens? This model takes 2 to {config.max_position_embeddings:,}. Choose one in between."
        )
    if batch is not None and not 1 <= batch <= 4096:
        raise PushbackError(f"A batch of {batch} examples? Choose 1 to 4096.")


def parts(config: PreTrainedConfig, setting: Setting) -> tuple[Part, ...]:
    """The memory of a training step by part, at its highest; the last part is overhead and only estimated."""
    activations, logits, gradients = memory.activation_bytes(config, setting)
    tensors = (
        *weights(config, setting),
        Part("adapter", setting.adapter * memory.adapter_parameters(config, setting.rank)),
        Part("gradients", gradients),
        Part("optimizer", memory.optimizer_bytes(config, setting)),
        Part("activations", activations),
        Part("logits", logits),
    )
    total = sum(part.bytes for part in tensors)
    overhead = DRIVER_GIB * GIB + memory.FRAGMENTS * total if setting.cuda else LIBRARIES_GIB * GIB
    return (*tensors, Part("driver and allocator" if setting.cuda else "libraries", int(overhead)))


def weights(config: PreTrainedConfig, setting: Setting) -> tuple[Part, ...]:
    """The memory of the frozen base by part."""
    packed = memory.nf4_bytes(config)
    linear = (Part("NF4 weights", packed), Part("quantisation state", memory.state_bytes(config)))
    if not setting.four_bit:
        linear = (Part("weights in 16 bit", 2 * setting.compute * packed),)
    return (*linear, Part("embeddings, head, norms", memory.unquantised_bytes(config, setting.compute)))


def needed_gib(config: PreTrainedConfig, setting: Setting) -> float:
    """All parts together."""
    return sum(part.gib for part in parts(config, setting))


def max_length(config: PreTrainedConfig, setting: Setting, card: Card) -> int:
    """The longest sequence that fits at this batch, in steps of 128 up to what the model takes; 0 where none does."""
    tried = range(STEP, config.max_position_embeddings + 1, STEP)
    return STEP * bisect(tried, card.gib, key=lambda n: needed_gib(config, dataclasses.replace(setting, length=n)))


def max_batch(config: PreTrainedConfig, setting: Setting, card: Card) -> int:
    """The largest batch that fits at this length, up to 256; 0 where not even one example does."""
    tried = range(1, MAX_BATCH + 1)
    return bisect(tried, card.gib, key=lambda n: needed_gib(config, dataclasses.replace(setting, batch=n, padded=n > 1)))


def advice(recipe: Recipe, gpu_gib: float, cuda: bool = True) -> str:
    """What would fit on so many GiB, in words, for someone whose memory ran out; never what they have just tried."""
    card = dataclasses.replace(card_for(gpu_gib), cuda=cuda)
    config, now = config_for(recipe), setting_for(recipe, card)
    if now.batch > 1 and needed_gib(config, single := dataclasses.replace(now, batch=1, padded=False)) <= gpu_gib:
        effective = recipe.effective_batch
        return (f"Batch 1 with accumulation {effective} would fit at sequence {now.length} (about "
                f"{needed_gib(config, single):.1f} GiB) and learns the same.")  # fmt: skip
    shorter = dataclasses.replace(now, batch=1, padded=False)
    length = min(max_length(config, shorter, card), (now.length - 1) // STEP * STEP)
    if length:
        need = needed_gib(config, dataclasses.replace(shorter, length=length))
        return f"Sequence {length} would fit, at batch 1 (about {need:.1f} GiB), without the examples that are longer."
    return too_small(recipe, gpu_gib, cuda)


def too_small(recipe: Recipe, gpu_gib: float, cuda: bool = True) -> str:
    """That not even the shortest sequence fits, what it would take, and which model on the dial would fit."""
    card = dataclasses.replace(card_for(gpu_gib), cuda=cuda)
    need = _smallest(recipe, card)
    smaller = [name for name, other in RECIPES.items() if other.parameters < recipe.parameters and not other.is_local]
    fitting = [name for name in smaller if _smallest(RECIPES[name], card) <= gpu_gib]
    same = [name for name in fitting if family_for(RECIPES[name]) is family_for(recipe)]
    instead = f"choose --model {(same or fitting)[-1]}, which fits" if fitting else "train on a hosted notebook"
    return (f"{recipe.name} needs at least {need:.1f} GiB even at sequence {STEP} and batch 1, and there are {gpu_gib:.1f}. "
            f"Take a card with more memory, or {instead}.")  # fmt: skip


def _smallest(recipe: Recipe, card: Card) -> float:
    return needed_gib(config_for(recipe), dataclasses.replace(setting_for(recipe, card, STEP, 1), checkpointing=True))


class Planner:
    """A widget for notebooks: choices above, the plan below. `found` is the plan that is shown, if there is one."""

    def __init__(self, model: str = "7b", gpu: str = "t4") -> None:
        import ipywidgets as widgets

        def choice(label: str, options: Any, value: Any) -> Any:
            return widgets.Dropdown(description=label, options=options, value=value, style={"description_width": "5em"})

        recipe = RECIPES[model]
        self.model = choice("Model", list(RECIPES), model)
        self.gpu = choice("Card", [(card.name, name) for name, card in CARDS.items()], gpu)
        self.length = choice("Sequence", LENGTHS, recipe.max_length)
        self.batch = choice("Batch", BATCHES, recipe.batch)
        self.shown = widgets.HTML()
        self.found: MemoryPlan | None = None
        self._kept = SavedCopy()
        for control in (self.model, self.gpu, self.length, self.batch):
            control.observe(self._changed, names="value")
        self.widget = widgets.VBox([widgets.HBox([self.model, self.gpu]), widgets.HBox([self.length, self.batch]), self.shown])
        self._changed({"owner": None})

    def _changed(self, change: dict[str, Any]) -> None:
        try:
            self.found = plan(self.model.value, self.gpu.value, self.length.value, self.batch.value)
            self.shown.value = self.found._repr_html_()
        except PushbackError as error:
            self.found, self.shown.value = None, f'<p role="alert">{escape(str(error))}</p>'
        self._kept.update(self.shown.value, "This plan")

    def _ipython_display_(self) -> None:
        """The live widget, and a copy of the plan for readers without a kernel."""
        self._kept.show(self.widget, "Planner", self.shown.value, "This plan")
