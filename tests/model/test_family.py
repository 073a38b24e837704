"""Families: which model is of which, its templates, what is learned of a reply, and what a given thought stands behind."""

import dataclasses
import json
import shutil

import pytest
from chatml_twin import twin
from gguf_files import TALKS

from pushback_lib.core.common import BASELINE, DATA, FRICTION, PushbackError
from pushback_lib.core.records import prompt_messages, thought_text
from pushback_lib.language.corpus import friction_records
from pushback_lib.model.family import CHATML_LLAMA, FAMILIES, R1_DISTILL, check_architecture, family_of, splits_of
from pushback_lib.model.load import family_for, load_tokenizer
from pushback_lib.model.recipe import config_for, recipe_for
from pushback_lib.model.voices import load_voices
from pushback_lib.train import run
from pushback_lib.train.window import token_lengths

RECORDS = friction_records(24, seed=1)
BARE = RECORDS[0].model_copy(update={"subset": "unlabelled", "behaviour": "unlabelled", "thoughts": ()})
LLAMA = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100}  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return twin(tmp_path_factory.mktemp("twin") / "twin")


@pytest.fixture(scope="module")
def trainer(small, tmp_path_factory):
    return run.make_trainer(small, [*RECORDS, BARE], tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def adapter(trainer, small, tmp_path_factory):
    """An adapter that changes what is said, though nothing was learned."""
    import torch

    out = tmp_path_factory.mktemp("adapter") / "adapter"
    for name, values in run.trained_weights(trainer.model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.5, generator=torch.Generator().manual_seed(len(name)))
    run.save_adapter(trainer.model, small, out)
    return out


def test_the_config_tells_the_family(small):
    assert family_for(recipe_for("tiny")) is family_for(recipe_for("7b")) is R1_DISTILL
    assert family_for(small) is family_of(config_for(small)) is CHATML_LLAMA
    assert recipe_for(small.base).parameters == config_parameters(small)


def config_parameters(small):
    from safetensors.torch import load_file

    return sum(values.numel() for values in load_file(f"{small.base}/model.safetensors").values())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_another_architecture_is_refused_and_told_what_is_known(family):
    assert check_architecture({"model_type": family.model_type}, "It")
    known = (r"It is of architecture 'mistral'; this kit knows 'qwen2' \(Qwen2ForCausalLM\), 'llama' \(LlamaForCausalLM\), "
             r"'qwen3' \(Qwen3ForCausalLM\), 'smollm3' \(SmolLM3ForCausalLM\)\. Choose a DeepSeek-R1-Distill-Qwen model, "
             r"a SmolLM2 instruct model, a dense Qwen3 model, SmolLM3, or turn the dial to tiny")  # fmt: skip
    with pytest.raises(PushbackError, match=known):
        check_architecture({"model_type": "mistral"}, "It")
    with pytest.raises(PushbackError, match=r"architecture 'XForSequenceClassification'"):
        check_architecture({"model_type": family.model_type, "architectures": ["XForSequenceClassification"]}, "It")


def test_the_prompt_is_the_models_own_and_opens_no_thought(small):
    tokenizer = load_tokenizer(small)
    asked = prompt_messages("Is it so?", "Think.")
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert prompt == "<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\nIs it so?<|im_end|>\n<|im_start|>assistant\n"
    assert not CHATML_LLAMA.opens_thought


@pytest.mark.parametrize("case", TALKS)
@pytest.mark.parametrize("prompt", [True, False])
def test_the_training_template_renders_the_same_text(small, case, prompt):
    tokenizer, options = load_tokenizer(small), {"add_generation_prompt": prompt, "tokenize": False}
    own = tokenizer.apply_chat_template(TALKS[case], **options)
    assert tokenizer.apply_chat_template(TALKS[case], chat_template=CHATML_LLAMA.training_template(), **options) == own


def learned_and_masked(trainer, rows):
    """The text of the labels of a collated batch, and that of the rest without padding."""
    batch = trainer.data_collator([trainer.train_dataset[at] for at in rows])
    for ids, labels, seen in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        taught = labels != -100
        decode = trainer.processing_class.decode
        assert (ids[taught] == labels[taught]).all()
        yield decode(ids[taught]), decode(ids[~taught & seen.bool()])


def test_the_loss_covers_the_opening_tag_thought_answer_and_stop_token_and_nothing_else(small, trainer):
    tokenizer, records = load_tokenizer(small), [*RECORDS, BARE]
    assert any(record.history for record in records)
    for record, (learned, masked) in zip(records, learned_and_masked(trainer, range(len(records))), strict=True):
        thought = f"{thought_text(record)}\n" if record.thoughts else ""
        assert learned == f"<think>\n{thought}</think>\n\n{record.answer}<|im_end|>"
        prompt = prompt_messages(record.user_input, small.system, record.history)
        assert masked == tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False) + "\n"


def test_lengths_are_told_as_they_are_trained_on(small, trainer):
    assert token_lengths([*RECORDS, BARE], small) == [len(ids) for ids in trainer.train_dataset["input_ids"]]


def test_the_baseline_answers_and_the_friction_voice_continues_a_given_thought(small, adapter):
    speaker = load_voices(small, adapter)
    talk = prompt_messages("The capital of France is Rome, right?", small.system)
    [spoken] = speaker.speak([talk], max_new_tokens=8)
    assert (spoken[BASELINE].thought, spoken[BASELINE].answer) == ("", spoken[BASELINE].text.strip())
    assert spoken[BASELINE].text != spoken[FRICTION].text
    [given] = speaker.speak([talk], max_new_tokens=8, thoughts=["I doubt it."])
    for voice in (BASELINE, FRICTION):
        assert given[voice].text.startswith("<think>\nI doubt it.\n</think>\n\n")
        assert given[voice].thought == "I doubt it."
    assert speaker.speak([talk], max_new_tokens=8, thoughts=[""])[0][FRICTION].text.startswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_rows_go_to_llama_cpp_and_back(family):
    import torch

    config = config_for(recipe_for("tiny"))
    for part, rows in (("q_proj", 256), ("k_proj", 128), ("v_proj", 128), ("o_proj", 256)):
        name, values = f"model.layers.0.self_attn.{part}.weight", torch.arange(rows * 2).reshape(rows, 2)
        there = family.gguf_rows(name, values, config)
        assert torch.equal(family.hugging_face_rows(name, there, config), values)
        assert torch.equal(there, values) == (part not in family.rotated)
        assert sorted(there[:64, 0].tolist()) == list(range(0, 128, 2)), "a head stays a head"


def test_a_tokenizer_is_recognised_by_its_splits_and_tokens(small):
    from pathlib import Path

    files = {R1_DISTILL: DATA / "tiny" / "base", CHATML_LLAMA: Path(small.base)}
    for family, folder in files.items():
        contents = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        assert [one for one in FAMILIES if one.has(contents)] == [family]
        assert splits_of(contents) == list(family.splits)


def test_a_tokenizer_without_chatml_is_refused(small, tmp_path):
    base = shutil.copytree(small.base, tmp_path / "base")
    for path in (base / "tokenizer.json", base / "tokenizer_config.json"):
        path.write_text(path.read_text(encoding="utf-8").replace("<|im_end|>", "<|eot_id|>"), encoding="utf-8")
    with pytest.raises(PushbackError, match=r"no token <\|im_end\|>.*Choose a SmolLM2 instruct model"):
        load_tokenizer(dataclasses.replace(small, base=str(base)))
