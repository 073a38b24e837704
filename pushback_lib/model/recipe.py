"""The dial, whose size of model sets every other number, and the configurations of the models."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import DATA, PushbackError
from . import package
from .family import QWEN3, R1_DISTILL, check_architecture

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


TEMPERATURE, TOP_P = 0.6, 0.95  # the model card of DeepSeek-R1, "Usage Recommendations"
# What a server is told besides the temperature, in the words of Ollama and llama.cpp: to do nothing of its own
PLAIN_SAMPLING = {"top_p": TOP_P, "top_k": -1, "min_p": 0.0, "repeat_penalty": 1.0, "presence_penalty": 0.0,
                  "frequency_penalty": 0.0}  # fmt: skip
TINY_SYSTEM = "Think first, then answer."
SYSTEM = (
    "You are a thoughtful assistant. Think the request through from several sides before you answer. Help fully "
    "with whatever deserves it; ask, doubt, disagree or decline where that serves the person better."
)


@dataclass(frozen=True)
class Mixture:
    """What a recipe trains on where one data set alone does not do."""

    language: int  # records of the small language, of one turn
    easy: int  # how often each record of data/easy is in an epoch
    friction: int  # records of data/friction, the shortest of each behaviour


@dataclass(frozen=True)
class Recipe:
    """Everything that training and generation need to know, derived from the model's size.

    Sources. `rank`, `alpha`, `epochs`, `learning_rate` and the effective batch of the distills: the talk this kit grew
    from (rank 32–64, 3–7 epochs, effective batch 8, 2e-4, cosine); of each range the cheaper end, since early stopping
    ends a run that has learned all it can. `patience`: the same talk, three looks at the validation split without gain.
    NF4 with double quantisation, LoRA on all linear layers, a paged 8-bit optimizer, gradient checkpointing: QLoRA
    (arXiv:2305.14314, sections 3 and 4). `warmup_share` 0.1: the talk. `max_length` 1024: the longest record of
    data/friction is shorter in the real vocabulary (tests/ship/test_real_tokenizer.py). `parameters`: counted from the
    published configurations below. `revision`: the newest commit of each repository on the Hub, as public code
    and caches pin it (of Qwen3, the snapshots in caches). The numbers of `tiny` were found by trying, on two CPU cores.

    `english`, a SmolLM2 of 135 million parameters, learns on a CPU: no NF4 (`four_bit`), since its 16-bit weights take 0.3 GB,
    and unpacking them for each matrix product costs time; rank 16, whose file of 9.8 MB can come with the kit (32 takes twice
    that); batches of 8; `max_length` 512, which holds the longest record of data/friction in its tokens (438);
    `max_new_tokens` 220, as `tiny`: a plain thought and answer take fewer. `learning_rate` and `mixture` were chosen on the
    validation pairs of data/easy, of which data/english tells; on data/friction alone its English broke.
    """

    name: str
    base: str  # a folder, or a model id on the Hugging Face Hub
    parameters: int  # of the base, all of them; from the published weights
    system: str = SYSTEM
    rank: int = 32
    alpha: int = 64
    learning_rate: float = 2e-4
    epochs: int = 3
    batch: int = 2
    accumulation: int = 4  # batch x accumulation = effective batch
    max_length: int = 1024  # tokens
    max_new_tokens: int = 1024
    warmup_share: float = 0.1
    checkpointing: bool = True
    optimizer: str = "paged_adamw_8bit"
    examples: int | None = None  # how many to draw, for the bundled language; None: all of data/friction
    mixture: Mixture | None = None  # of records to train on, in place of data/friction
    seed: int = 7
    revision: str | None = None  # commit of the base on the Hub; None: a folder, or the newest
    patience: int = 3  # looks at the validation split without gain before training ends; 0: no validation
    four_bit: bool = True  # trained and spoken with over NF4 weights (QLoRA); else over 16-bit ones
    checkpoint_every: int = 50  # optimizer steps from one checkpoint, and look at the validation split, to the next

    @property
    def effective_batch(self) -> int:
        return self.batch * self.accumulation

    @property
    def is_local(self) -> bool:
        return Path(self.base).is_dir() or Path(self.base).is_absolute()  # the latter also where it is still to be made

    @property
    def base_folder(self) -> str | None:
        """The folder of a local base, which no output may replace; None for a model of the Hub."""
        return self.base if self.is_local else None

    @property
    def label(self) -> str:
        """The name for files that are passed on: of a local folder the last part alone."""
        return Path(self.name).resolve().name if self.is_local else self.name

    @property
    def language(self) -> str:
        """What data and eval set the dial selects: `bundled`, the small language of `tiny`, or `english`."""
        return "bundled" if self.examples else "english"

    @property
    def shipped_adapter(self) -> Path:
        """The folder of the adapter that comes with the kit; only `tiny` and `english` have one."""
        return DATA / Path(self.name).name / "adapter"


_HUB, _QWEN3 = "deepseek-ai/DeepSeek-R1-Distill-Qwen-", "Qwen/Qwen3-"
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("tiny", str(DATA / "tiny" / "base"), 4_101_376, system=TINY_SYSTEM, learning_rate=1e-3, epochs=1, batch=16,
               accumulation=1, max_length=512, max_new_tokens=220, warmup_share=0.05, checkpointing=False,
               optimizer="adamw_torch", examples=3600, patience=0),
        Recipe("english", str(package.FOLDER), 134_515_008, rank=16, alpha=32, learning_rate=1e-3, epochs=1, batch=8,
               accumulation=1, max_length=512, max_new_tokens=220, checkpointing=False, optimizer="adamw_torch", patience=0,
               four_bit=False, mixture=Mixture(language=300, easy=3, friction=0)),
        Recipe("1.5b", _HUB + "1.5B", 1_777_088_000, revision="ad9f0ae0864d7fbcd1cd905e3c6c5b069cc8b562"),
        Recipe("7b", _HUB + "7B", 7_615_616_512, revision="916b56a44061fd5cd7d6a8fb632557ed4f724f60"),
        Recipe("14b", _HUB + "14B", 14_770_033_664, batch=1, accumulation=8,
               revision="1df8507178afcc1bef68cd8c393f61a886323761"),
        Recipe("32b", _HUB + "32B", 32_763_876_352, batch=1, accumulation=8,
               revision="711ad2ea6aa40cfca18895e8aca02ab92df1a746"),
        Recipe("qwen3-0.6b", _QWEN3 + "0.6B", 596_049_920, revision="c1899de289a04d12100db370d81485cdf75e47ca"),
        Recipe("qwen3-1.7b", _QWEN3 + "1.7B", 1_720_574_976, revision="70d244cc86ccca08cf5af4e1e306ecf908b1ad5e"),
        Recipe("qwen3-4b", _QWEN3 + "4B", 4_022_468_096, revision="1cfa9a7208912126459214e8b04321603b3df60c"),
        Recipe("qwen3-8b", _QWEN3 + "8B", 8_190_735_360, revision="b968826d9c46dd6066d109eabc6255188de91218"),
    )
}  # fmt: skip


# Models of a known architecture that the kit would ask in the wrong way, and why
REFUSED = {"deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": "has the layers of Qwen3 and the tokens of DeepSeek, and its chat template "
                                                    "was found in no source that this kit could name"}  # fmt: skip


def recipe_for(name: str) -> Recipe:
    """The recipe of a size on the dial, or a model of a known family: a Hub id (`owner/name`, `owner/name@commit`), a folder.

    Raises PushbackError for any other name, and for a model that this kit cannot train.
    """
    if name.lower() in RECIPES:
        return RECIPES[name.lower()]
    if reason := REFUSED.get(name.partition("@")[0]):
        raise PushbackError(f"{name} {reason}. Choose 7b or qwen3-8b.")
    if "/" not in name and not Path(name).is_dir():
        raise PushbackError(
            f"No model called {name!r}. Choose one of: {', '.join(RECIPES)}; or give a Hub id (owner/name) or a local folder."
        )
    return _own_recipe(name)


def chosen_size() -> str:
    """The size that the environment variable PUSHBACK_MODEL names, for notebooks and commands; `tiny` if it is not set."""
    return os.environ.get("PUSHBACK_MODEL", "tiny")


def chosen_recipe() -> Recipe:
    """The recipe of `chosen_size()`."""
    return recipe_for(chosen_size())


def _own_recipe(name: str) -> Recipe:
    """The recipe for `./folder`, `owner/name` or `owner/name@revision`; only config.json is read."""
    base, _, revision = (name, "", "") if Path(name).is_dir() else name.partition("@")
    if not Path(name).is_dir() and name.startswith((".", "/", "~")):
        raise PushbackError(f"No folder {name}. Check the path, or give a Hub id (owner/name).")
    config = _own_config(base, revision or None)
    like = _like(parameters(config))
    return dataclasses.replace(
        like, name=name, base=base, parameters=parameters(config), revision=revision or None,
        max_length=min(like.max_length, config.max_position_embeddings),
    )  # fmt: skip


def _like(count: int) -> Recipe:
    sizes = sorted((recipe for recipe in RECIPES.values() if not recipe.is_local), key=lambda recipe: recipe.parameters)
    return next((recipe for recipe in sizes if recipe.parameters >= count), sizes[-1])


HUB_TIMEOUT_SECONDS = 10  # for the Hub to answer
_BUNDLED = "or turn the dial to tiny, which comes with the kit."
SOURCE = "https://huggingface.co/{base}/blob/main/config.json"

# What the config.json of a family's published models have in common. Read again in public files that quote them, for the
# distills: ollama/ollama#9245 (14B), likelovewant/ollama-for-amd#54 (7B), both the header that llama.cpp writes from
# config.json; for Qwen3: rasbt/LLMs-from-scratch, ch05/11_qwen3 (all four), which loads the published weights into them. Their
# totals of parameters: keras-team/keras-hub's presets (1.7B); the Hub's `safetensors.total`, as other projects quote it (0.6B,
# 4B, 8B).
_ALL = {
    "hidden_act": "silu", "attention_dropout": 0.0, "initializer_range": 0.02, "bos_token_id": 151643, "sliding_window": None,
    "use_sliding_window": False, "use_cache": True,
}  # fmt: skip
_COMMON = {**_ALL, "model_type": R1_DISTILL.model_type, "eos_token_id": 151643, "max_position_embeddings": 131072,
           "tie_word_embeddings": False}  # fmt: skip
_COMMON_QWEN3 = {**_ALL, "model_type": QWEN3.model_type, "eos_token_id": 151645, "max_position_embeddings": 40960,
                 "attention_bias": False, "head_dim": 128}  # fmt: skip

# hidden size, intermediate size, layers, heads, heads for keys and values, vocabulary, RMS epsilon, RoPE theta
_SIZES: dict[str, tuple[int, int, int, int, int, int, float, float]] = {
    "1.5b": (1536, 8960, 28, 12, 2, 151936, 1e-6, 1e4),
    "7b": (3584, 18944, 28, 28, 4, 152064, 1e-6, 1e4),
    "14b": (5120, 13824, 48, 40, 8, 152064, 1e-5, 1e6),
    "32b": (5120, 27648, 64, 40, 8, 152064, 1e-5, 1e6),
    "qwen3-0.6b": (1024, 3072, 28, 16, 8, 151936, 1e-6, 1e6),
    "qwen3-1.7b": (2048, 6144, 28, 16, 8, 151936, 1e-6, 1e6),
    "qwen3-4b": (2560, 9728, 36, 32, 8, 151936, 1e-6, 1e6),
    "qwen3-8b": (4096, 12288, 36, 32, 8, 151936, 1e-6, 1e6),
}
_FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
           "vocab_size", "rms_norm_eps", "rope_theta")  # fmt: skip


def published_config(name: str) -> PreTrainedConfig:
    """The configuration of a published size on the dial, as `7b` or `qwen3-4b`. Raises PushbackError for any other name."""
    if name not in _SIZES:
        raise PushbackError(f"No published configuration called {name!r}. Choose one of: {', '.join(_SIZES)}.")
    # Qwen3 ties its embeddings up to 4 billion parameters
    common = {**_COMMON_QWEN3, "tie_word_embeddings": name != "qwen3-8b"} if name.startswith("qwen3") else _COMMON
    return as_config({**common, **dict(zip(_FIELDS, _SIZES[name], strict=True))}, SOURCE.format(base=RECIPES[name].base))


def as_config(values: dict[str, Any], source: str) -> PreTrainedConfig:
    """A configuration from the values of a config.json. Raises PushbackError for another architecture or a missing value."""
    check_architecture(values, source)
    missing = [field for field in _FIELDS[:6] if not isinstance(values.get(field), int) or values[field] < 1]
    if missing:
        raise PushbackError(f"{source} does not say {', '.join(missing)}. Get the model's own config.json again.")
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[values["model_type"]].from_dict(values)


def config_for(recipe: Recipe) -> PreTrainedConfig:
    """The configuration of a recipe's base: published, the package's, from its folder, or from the Hub (config.json alone).

    Raises PushbackError if it is of another architecture or damaged, or the Hub does not give it.
    """
    if recipe.name in _SIZES and not Path(recipe.base).is_dir():
        return published_config(recipe.name)
    if recipe.base == str(package.FOLDER):
        return as_config(package.CONFIG, package.NAME)
    return _own_config(recipe.base, recipe.revision)


def _own_config(base: str, revision: str | None) -> PreTrainedConfig:
    if not Path(base).is_dir():
        return as_config(hub_config(base, revision), base)
    path = Path(base) / "config.json"
    return as_config(read_json(path, "Get the model's folder again."), str(path))


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """The object in a JSON file. Raises PushbackError, ending in `fix`, if the file is missing or damaged."""
    if not path.is_file():
        raise PushbackError(f"No {path.name} in {path.parent}. {fix}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PushbackError(f"{path} is damaged ({error}). {fix}") from error
    if not isinstance(found, dict):
        raise PushbackError(f"{path} is damaged (it holds a {type(found).__name__}, no object). {fix}")
    return found


def hub_config(model: str, revision: str | None = None) -> dict[str, Any]:
    """The config.json of a model on the Hub, from the cache if it is there, else from the Hub (a few kilobytes).

    Raises PushbackError for a misspelt, private or gated id, a revision that does not exist, no connection, a repository
    that holds no model, and a model of another architecture.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        path = try_to_load_from_cache(model, "config.json", revision=revision)
        if not isinstance(path, str):
            url = hf_hub_url(model, "config.json", revision=revision)
            get_hf_file_metadata(url, timeout=HUB_TIMEOUT_SECONDS)  # fails at once, where a download would try again
            path = hf_hub_download(model, "config.json", revision=revision)
    except HFValidationError as error:
        raise PushbackError(f"{model!r} is not a Hub id (owner/name): {str(error).split('.')[0]}. Check --model.") from error
    except HfHubHTTPError as error:
        raise PushbackError(_refused(model, revision, error)) from error
    except (OSError, *HfHubHTTPError.__bases__) as error:  # what the Hub's HTTP library, httpx or a later one, raises
        what = f"revision {revision}" if revision else "the model"
        raise PushbackError(
            f"{model} could not be loaded: the Hub does not answer, and {what} is not in this machine's cache. "
            f"Check the connection (and that HF_HUB_OFFLINE is not set), {_BUNDLED}"
        ) from error
    with open(path, encoding="utf-8") as file:
        return check_architecture(json.load(file), model)


def _refused(model: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):  # before RepositoryNotFoundError, of which it is a kind
        return (f"{model} is gated: its owner wants you to accept terms first. Do so on its page on the Hub, log in with "
                f"`hf auth login`, and run again; or choose an ungated model: {', '.join(RECIPES)}.")  # fmt: skip
    if isinstance(error, RevisionNotFoundError):
        return (f"{model} has no revision {revision!r}. Look it up under Files, History on the model's page, or leave it out "
                "to take the newest.")  # fmt: skip
    if isinstance(error, RepositoryNotFoundError):
        near = difflib.get_close_matches(model, [recipe.base for recipe in RECIPES.values() if not recipe.is_local], 1, 0.8)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"The Hub has no model {model!r}, or it is private.{hint} Check the spelling, or log in with `hf auth login`."
    if isinstance(error, EntryNotFoundError):
        return f"{model} holds no config.json, so it is no transformers model. Check the id: a GGUF repository has none."
    return f"{model} could not be loaded: {str(error).splitlines()[0]} Try again later, {_BUNDLED}"


def parameters(config: PreTrainedConfig) -> int:
    """How many parameters the model has, counted on the meta device; tied embeddings count once."""
    return _counted(config.to_json_string(use_diff=False))


@lru_cache(maxsize=32)
def _counted(text: str) -> int:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    values = json.loads(text)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[values["model_type"]].from_dict(values))
    return sum(parameter.numel() for parameter in model.parameters())
