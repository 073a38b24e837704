"""Qwen3 and SmolLM3 from the mask to llama.cpp, on small twins with random weights: what is learned, merged, written, said."""

import dataclasses
import json
from pathlib import Path
from shutil import copytree

import pytest
import torch
from chatml_twin import qwen3_twin, smollm3_twin
from gguf import GGUFReader
from gguf_files import TALKS, TEXTS, same_words
from real_vocabulary import FIRST_SPECIAL, SPECIAL, qwen3_folder

from pushback_lib.core.common import BASELINE, DATA, FRICTION, PushbackError
from pushback_lib.core.records import load_records, prompt_messages, thought_text
from pushback_lib.language.corpus import draw_requests, friction_records
from pushback_lib.model.doctor import examine_model, render
from pushback_lib.model.family import QWEN3, SMOLLM3
from pushback_lib.model.gguf_file import check_pair
from pushback_lib.model.llama_cpp import LlamaCpp, share
from pushback_lib.model.load import family_for, load_tokenizer
from pushback_lib.model.recipe import as_config, parameters, recipe_for
from pushback_lib.model.voices import load_voices
from pushback_lib.ship import gguf as writer
from pushback_lib.ship.gguf import write_gguf
from pushback_lib.ship.lora import write_lora
from pushback_lib.ship.merge import Merge
from pushback_lib.ship.ollama import Modelfile
from pushback_lib.train import run

RECORDS = friction_records(24, seed=1)
THREE_TURNS = [
    {"role": "system", "content": "Think."}, {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "<think>\nFirst thought.\n</think>\n\nOne."}, {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "<think>\nSecond thought.\n</think>\n\nTwo."}, {"role": "user", "content": "Three?"},
    {"role": "assistant", "content": "<think>\nThird thought.\n</think>\n\nThree."},
]  # fmt: skip
CASES = {**TALKS, "three turns, each with a thought": THREE_TURNS, "asked a third time": THREE_TURNS[:-1]}


TWINS = {QWEN3.name: qwen3_twin, SMOLLM3.name: smollm3_twin}
SMOLLM3_HEADER = "## Metadata\n\nKnowledge Cutoff Date: June 2025\nReasoning Mode: {}\n\n## Custom Instructions\n\n"


@pytest.fixture(scope="module", params=TWINS)
def small(request, tmp_path_factory):
    return TWINS[request.param](tmp_path_factory.mktemp("twin") / "twin")


@pytest.fixture(scope="module")
def family(small):
    return family_for(small)


@pytest.fixture(scope="module")
def trainer(small, tmp_path_factory):
    return run.make_trainer(small, RECORDS, tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def adapter(small, tmp_path_factory):
    """Trained for two steps, and then turned up, so that it changes what is said."""
    from safetensors.torch import load_file, save_file

    out = tmp_path_factory.mktemp("adapter") / "adapter"
    run.train_adapter(dataclasses.replace(small, batch=8), RECORDS[:16], out)
    path = out / "adapter_model.safetensors"
    tensors = load_file(path)
    assert all(values.any() for name, values in tensors.items() if "lora_B" in name), "each matrix has learned something"
    turned_up = {name: values * (100 if "lora_B" in name else 1) for name, values in tensors.items()}
    save_file(turned_up, path, metadata={"format": "pt"})
    return out


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("prompt", [True, False])
def test_chat_training_and_gguf_render_alike(small, family, case, prompt):
    """Of Qwen3 the chat's is the published one, as TRL carries it."""
    tokenizer, options = load_tokenizer(small), {"add_generation_prompt": prompt, "tokenize": False}
    own = tokenizer.apply_chat_template(CASES[case], **options)
    for template in (family.training_template(), family.gguf_template):
        assert tokenizer.apply_chat_template(CASES[case], chat_template=template, **options) == own


@pytest.mark.parametrize("system", ["Be brief.", "Be brief. /think\n", "Be brief. /no_think", ""])
@pytest.mark.parametrize("thinks", [True, False])
def test_smollm3_renders_as_its_published_template_but_for_the_date(system, thinks):
    talk = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": "One?"}]
    mode = "/no_think" if "/no_think" in system or (not thinks and "/think" not in system) else "/think"
    told = "Be brief." if system else "You are a helpful AI assistant named SmolLM, trained by Hugging Face."
    end = "" if mode == "/think" else "<think>\n\n</think>\n"
    text = render(SMOLLM3.chat_template(), talk, "", "", prompt=True, enable_thinking=thinks)[0]
    assert text == (
        f"<|im_start|>system\n{SMOLLM3_HEADER.format(mode)}{told}\n\n<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n"
        f"<|im_start|>assistant\n{end}"
    )


def test_thinking_can_be_turned_off_as_in_the_published_template(small, family):
    asked = {"conversation": THREE_TURNS[:2], "add_generation_prompt": True, "tokenize": False, "enable_thinking": False}
    text = load_tokenizer(small).apply_chat_template(**asked)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n" + "\n" * (family is QWEN3))
    assert load_tokenizer(small).apply_chat_template(**asked, chat_template=family.gguf_template) == text


def test_of_three_turns_the_last_thought_is_kept_and_no_empty_one_is_put_in(small, family):
    """Qwen3 drops the earlier ones, SmolLM3 keeps all."""
    text = load_tokenizer(small).apply_chat_template(THREE_TURNS, chat_template=family.training_template(), tokenize=False)
    earlier = family is SMOLLM3
    assert [word in text for word in ("First thought", "Second thought", "Third thought")] == [earlier, earlier, True]
    assert text.count("<think>") == 1 + 2 * earlier


def test_the_loss_covers_thought_answer_and_stop_token_and_nothing_else(small, trainer):
    tokenizer = load_tokenizer(small)
    assert any(record.history for record in RECORDS)
    for at, record in enumerate(RECORDS):
        batch = trainer.data_collator([trainer.train_dataset[at]])
        ids, taught = batch["input_ids"][0], batch["labels"][0] != -100
        thought = f"{thought_text(record)}\n" if record.thoughts else ""
        assert tokenizer.decode(ids[taught]) == f"<think>\n{thought}</think>\n\n{record.answer}<|im_end|>"
        prompt = prompt_messages(record.user_input, small.system, record.history)
        asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        assert tokenizer.decode(ids[~taught]) == asked + "\n"


def test_the_merged_model_is_the_adapter_over_its_base(merged, family):
    made = Merge.read(merged)
    assert made.changed == made.expected == {QWEN3: 14, SMOLLM3: 28}[family]
    assert made.distance < made.limit < made.base_distance


@pytest.mark.parametrize("text", [*TEXTS, "cafe\u0301 A\u030a, which this family normalises"])
def test_llama_cpp_splits_text_as_hugging_face_does(server, small, text):
    assert server.tokenise(text) == load_tokenizer(small)(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("case", [case for case, talk in CASES.items() if talk[-1]["role"] == "user"])
def test_llama_cpp_renders_the_prompt_byte_for_byte_as_the_jinja(server, small, case):
    expected = load_tokenizer(small).apply_chat_template(CASES[case], add_generation_prompt=True, tokenize=False)
    assert server.render(CASES[case]) == expected


def talks(small):
    return [prompt_messages(one.user, small.system, one.history) for one in draw_requests(1, 5, held_out=True)][::4]


def test_greedy_words_and_probabilities_equal_hugging_faces_at_f32(server, small, merged):
    asked = [*talks(small), THREE_TURNS[:-1]]
    assert same_words(server, merged, load_tokenizer(small), asked, 40, endless=(0, 2)) == 40 * len(asked)


def test_a_file_with_other_queries_would_say_other_words(merged, small, family, tmp_path, monkeypatch):
    """Of Qwen3 without their norms, of SmolLM3 in Hugging Face's order."""
    shown = writer.Family.gguf_rows
    change = {QWEN3: ("q_norm.weight", torch.ones_like), SMOLLM3: ("q_proj.weight", lambda values: values)}
    part, lost = change[family]
    monkeypatch.setattr(writer.Family, "gguf_rows", lambda self, name, values, config: lost(values)
                        if name.endswith(part) else shown(self, name, values, config))  # fmt: skip
    wrong = write_gguf(merged, tmp_path / "wrong.gguf", "F32")
    with LlamaCpp(wrong, exact=True) as one, pytest.raises(AssertionError):
        same_words(one, merged, load_tokenizer(small), talks(small)[:1], 40, endless=(0, 2))


def test_base_and_lora_file_say_what_the_adapter_says(small, adapter, tmp_path):
    base = write_gguf(small.base, tmp_path / "base.gguf", "F32", small, "baseline")
    lora = write_lora(small, adapter, tmp_path / "lora.gguf", "F32")
    speaker, asked = load_voices(small, adapter, four_bit=False), talks(small)[0]
    speaker.model.float()
    [said] = speaker.speak([asked], max_new_tokens=12)
    with LlamaCpp(base, lora=check_pair(base, lora), exact=True) as one:
        for voice, dial in ((BASELINE, 0.0), (FRICTION, 1.0)):
            found = one.complete(one.render(asked), 12, **share(dial))
            assert (found.ids[:-1] if found.end == "stop" else found.ids) == said[voice].ids
    assert said[FRICTION].text != said[BASELINE].text


HEADERS = {
    QWEN3: {"qwen3.attention.key_length": 32, "qwen3.attention.value_length": 32, "qwen3.rope.freq_base": 1e6,
            "tokenizer.ggml.pre": "qwen2"},
    SMOLLM3: {"smollm3.rope.dimension_count": 16, "smollm3.vocab_size": 600, "smollm3.rope.freq_base": 5e6,
              "tokenizer.ggml.pre": "smaug-bpe"},
}  # fmt: skip


def test_the_header_and_the_modelfile_say_what_the_model_is(merged, small, family, tmp_path):
    path = write_gguf(merged, tmp_path, "Q8_0", small)
    found = {key: field.contents() for key, field in GGUFReader(path).fields.items()}
    expected = HEADERS[family] | {
        "general.architecture": family.name, "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.chat_template": family.gguf_template,
    }  # fmt: skip
    assert {key: found.get(key) for key in expected} == expected
    assert "tool" not in family.gguf_template
    made = Modelfile.for_recipe(small, load_tokenizer(small), path.name)
    stops = {QWEN3: ["<|im_end|>", "<|endoftext|>"], SMOLLM3: ["<|im_end|>"]}[family]
    assert (made.template, made.parameters["stop"]) == ("", stops)


def test_a_smollm3_that_leaves_out_other_rotations_than_llama_cpp_does_becomes_no_gguf(tmp_path):
    base = smollm3_twin(tmp_path / "twin").base
    path = Path(base) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert config["no_rope_layers"] == [1, 1, 1, 0]
    path.write_text(json.dumps(config | {"no_rope_layers": [1, 0, 1, 0]}), encoding="utf-8")
    with pytest.raises(PushbackError, match=r"no_rope_layers \[1, 0, 1, 0\]; llama.cpp leaves every fourth layer"):
        write_gguf(base, tmp_path / "x.gguf", "F32")
    assert not list(tmp_path.glob("*gguf*"))


def test_the_published_smollm3_is_counted_right_though_its_config_does_not_say_that_embeddings_are_tied():
    """The numbers of HuggingFaceTB/SmolLM3-3B's config.json; the index of its weights gives 3,075,098,624 as their total."""
    config = as_config({
        "model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "hidden_size": 2048, "intermediate_size": 11008,
        "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 128256,
        "rms_norm_eps": 1e-6, "rope_theta": 5e6, "max_position_embeddings": 65536,
    }, "config.json")  # fmt: skip
    assert parameters(config) == 3_075_098_624


@pytest.mark.parametrize("name", ["qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b"])
def test_the_dial_knows_the_published_sizes(name):
    assert family_for(recipe_for(name)) is QWEN3


def test_a_qwen3_with_the_tokens_of_deepseek_is_refused(tmp_path):
    small = qwen3_twin(tmp_path / "twin")
    base = copytree(small.base, tmp_path / "R1-0528-Qwen3-8B")
    for path in (base / "tokenizer.json", base / "tokenizer_config.json"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("<|im_start|>", SPECIAL[1]).replace("<|im_end|>", SPECIAL[0]), encoding="utf-8")
    with pytest.raises(PushbackError, match=r"no token <\|im_start\|>, <\|im_end\|>.*Choose a dense Qwen3 model"):
        load_tokenizer(dataclasses.replace(small, base=str(base)))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A small model with random weights and Qwen3's own vocabulary, rebuilt."""
    base = qwen3_folder(tmp_path_factory.mktemp("real"))
    return dataclasses.replace(recipe_for("qwen3-0.6b"), base=str(base), revision=None)


@pytest.mark.slow
def test_on_the_true_vocabulary_the_tags_are_one_token_each_and_the_doctor_finds_nothing(real):
    tokenizer = load_tokenizer(real)
    ids = tokenizer.apply_chat_template(THREE_TURNS, chat_template=QWEN3.training_template(), return_dict=False)
    first = FIRST_SPECIAL
    assert [ids.count(one) for one in (first + 1, first + 2, first + 24, first + 25)] == [7, 7, 1, 1]  # starts, ends, both tags
    report = examine_model(real)
    assert report.ok, str(report)
    assert "qwen2" in str(report)


@pytest.mark.slow
def test_on_the_true_vocabulary_llama_cpp_reads_the_same_tokens(real, tmp_path):
    tokenizer, records = load_tokenizer(real), load_records(DATA / "friction" / "train.jsonl")[::120]
    with LlamaCpp(write_gguf(real.base, tmp_path / "x.gguf", "F16")) as one:
        for record in records:
            messages = prompt_messages(record.user_input, real.system, record.history)
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            assert one.render(messages) == prompt
            assert one.tokenise(prompt) == tokenizer(prompt, add_special_tokens=False)["input_ids"]
