"""Loading the base: in which numbers, without a needless progress bar, and what is refused."""

import dataclasses
import shutil

import pytest
import torch
from datasets.utils import logging as of_datasets
from safetensors.torch import load_file, save_file
from train_small import quick_learner
from transformers.utils import logging as of_transformers

from pushback_lib.core.common import PushbackError
from pushback_lib.language.corpus import friction_records
from pushback_lib.model import load
from pushback_lib.model.load import bars, dtype_for, load_base, load_tokenizer, quantisation
from pushback_lib.model.recipe import recipe_for
from pushback_lib.train import plan as planner
from pushback_lib.train.run import train_adapter

TINY = recipe_for("tiny")


@pytest.mark.parametrize("logging", [of_datasets, of_transformers])
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_bars_are_as_wanted_within_and_as_before_afterwards(logging, wanted, before):
    with bars(logging, before):
        was = logging.is_progress_bar_enabled()
        with bars(logging, wanted):
            assert logging.is_progress_bar_enabled() == (was and wanted)
        assert logging.is_progress_bar_enabled() == was
        with pytest.raises(ZeroDivisionError), bars(logging, wanted):
            raise ZeroDivisionError
        assert logging.is_progress_bar_enabled() == was


@pytest.mark.parametrize(
    ("capability", "computes"),
    [((7, 0), torch.float16), ((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((8, 9), torch.bfloat16),
     ((9, 0), torch.bfloat16), (None, torch.float32)],
    ids=["V100", "T4", "A100", "L4, RTX 4090", "H100, H200", "none"],
)  # fmt: skip
def test_the_card_decides_what_is_computed_in(capability, computes):
    assert dtype_for(capability) is computes


def test_under_fsdp_the_packed_weights_are_stored_in_one_dtype(monkeypatch):
    assert quantisation().bnb_4bit_quant_storage is torch.uint8
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert quantisation().bnb_4bit_quant_storage is torch.float32


@pytest.mark.slow
def test_without_bitsandbytes_training_is_plain_lora_in_16_bit_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "bitsandbytes_runs", lambda: False)
    monkeypatch.setattr(planner, "bitsandbytes_runs", lambda: False)
    with pytest.warns(UserWarning, match=r"no bitsandbytes.*loaded in 16 bit, and training is plain LoRA, not QLoRA"):
        base = load_base(TINY)
    assert {parameter.dtype for parameter in base.parameters()} == {torch.bfloat16}
    assert [part.name for part in planner.plan("1.5b", "laptop").parts][:2] == ["weights in 16 bit", "embeddings, head, norms"]
    assert planner.plan("1.5b", "t4").parts[0].name == "NF4 weights"
    with pytest.warns(UserWarning, match="plain LoRA"):
        training = train_adapter(quick_learner(), friction_records(96, seed=2), tmp_path / "adapter")
    assert training.losses[-1][1] < 0.7 * training.losses[0][1]


def test_the_small_model_loads_without_a_bar(capfd):
    load_base(TINY, four_bit=False)
    assert "Loading weights" not in capfd.readouterr().err


def test_a_tokenizer_without_the_templates_tokens_is_refused(tmp_path):
    base = shutil.copytree(TINY.base, tmp_path / "base")
    text = (base / "tokenizer.json").read_text(encoding="utf-8").replace("<｜Assistant｜>", "<|im_start|>")
    (base / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(PushbackError, match=r"no token <｜Assistant｜>.*Choose a DeepSeek-R1-Distill-Qwen model"):
        load_tokenizer(dataclasses.replace(TINY, base=str(base)))


def test_pickled_weights_are_refused(tmp_path):
    base = shutil.copytree(TINY.base, tmp_path / "base")
    (base / "model.safetensors").unlink()
    torch.save({}, base / "pytorch_model.bin")
    with pytest.raises(PushbackError, match="No weights at"):
        load_base(dataclasses.replace(TINY, base=str(base)))


@pytest.mark.parametrize("values", [None, torch.ones(128, dtype=torch.bfloat16)], ids=["missing", "another shape"])
def test_weights_that_would_be_random_are_refused(tmp_path, values):
    base = shutil.copytree(TINY.base, tmp_path / "base")
    tensors = load_file(base / "model.safetensors") | {"model.norm.weight": values}
    tensors = {name: found for name, found in tensors.items() if found is not None}
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(PushbackError, match=r"lack 1 tensors .* \(first: model\.norm\.weight\); they would be random"):
        load_base(dataclasses.replace(TINY, base=str(base)))
