"""Llama with ChatML as GGUF: the same tokens, prompts and greedy words in llama.cpp, and what Ollama is told."""

import numpy as np
import pytest
import torch
from chatml_twin import twin
from gguf import GGUFReader
from gguf_files import TALKS, TEXTS, same_words
from gguf_official import official

from pushback_lib.core.common import PushbackError
from pushback_lib.core.records import prompt_messages, split_reply
from pushback_lib.language.corpus import draw_requests, friction_records
from pushback_lib.measure.prompts import load_prompts
from pushback_lib.model.family import CHATML_LLAMA
from pushback_lib.model.llama_cpp import LlamaCpp
from pushback_lib.model.load import load_tokenizer
from pushback_lib.model.package import package_file
from pushback_lib.model.recipe import recipe_for
from pushback_lib.ship import gguf as writer
from pushback_lib.ship.gguf import check_kinds, write_gguf
from pushback_lib.ship.ollama import Modelfile
from pushback_lib.ship.run import default_kinds, ship_gguf
from pushback_lib.train import run


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return twin(tmp_path_factory.mktemp("twin") / "twin")


@pytest.fixture(scope="module")
def adapter(small, tmp_path_factory):
    """An adapter that changes what is said, though nothing was learned."""
    trainer = run.make_trainer(small, friction_records(16, seed=1), tmp_path_factory.mktemp("work"))
    for name, values in run.trained_weights(trainer.model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    out = tmp_path_factory.mktemp("adapter") / "adapter"
    run.save_adapter(trainer.model, small, out)
    return out


def header(path):
    return {key: field.contents() for key, field in GGUFReader(path).fields.items()}


@pytest.mark.parametrize("text", TEXTS)
def test_llama_cpp_splits_text_as_hugging_face_does(server, small, text):
    assert server.tokenise(text) == load_tokenizer(small)(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("case", TALKS)
def test_llama_cpp_renders_the_prompt_byte_for_byte_as_the_jinja(server, small, case):
    expected = load_tokenizer(small).apply_chat_template(TALKS[case], add_generation_prompt=True, tokenize=False)
    assert server.render(TALKS[case]) == expected


def test_greedy_words_and_probabilities_equal_hugging_faces_at_f32(server, small, merged):
    talks = [prompt_messages(one.user, small.system, one.history) for one in draw_requests(1, 5, held_out=True)]
    assert same_words(server, merged, load_tokenizer(small), talks[::2], 60, endless=(0, 2)) == 60 * len(talks[::2])


def test_rows_in_the_order_of_transformers_would_say_other_words(merged, small, tmp_path, monkeypatch):
    right = header(write_gguf(merged, tmp_path / "right.gguf", "F32"))
    monkeypatch.setattr(writer.Family, "gguf_rows", lambda self, name, values, config: values)
    wrong = write_gguf(merged, tmp_path / "wrong.gguf", "F32")
    assert header(wrong) == right
    with LlamaCpp(wrong, exact=True) as one, pytest.raises(AssertionError):
        same_words(one, merged, load_tokenizer(small), [prompt_messages("Is it so?", small.system)], 60, endless=(0, 2))


def test_a_reply_begins_outside_the_thought_until_a_tag_opens_it(server):
    found = server.complete(server.render([{"role": "user", "content": "Hi"}]), 5)
    assert (found.thought, found.answer) == ("", found.text.strip())
    given = server.render([{"role": "user", "content": "Hi"}]) + "<think>\nHm."
    assert split_reply("<think>\nHm." + server.complete(given, 5).text, prefilled=False).thought.startswith("Hm.")


def test_the_header_says_what_the_model_is(merged, small, tmp_path):
    found = header(write_gguf(merged, tmp_path, "Q8_0", small))
    expected = {
        "general.architecture": "llama", "llama.vocab_size": 600, "llama.rope.dimension_count": 16,
        "llama.attention.head_count": 8, "llama.attention.head_count_kv": 2, "llama.rope.freq_base": 1e5,
        "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.chat_template": CHATML_LLAMA.gguf_template,
    }  # fmt: skip
    assert {key: found.get(key) for key in expected} == expected
    assert "tool" not in CHATML_LLAMA.gguf_template


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q5_K_M"])
def test_k_quants_do_not_fit_the_english_model_and_that_is_said_first(kind):
    english = recipe_for("english")
    with pytest.raises(PushbackError, match=rf"english has matrices with rows of 576 numbers.*blocks of {kind}.*Take Q8_0"):
        check_kinds([kind], english)
    check_kinds(["F32", "F16", "Q8_0"], english)
    assert default_kinds(english) == ("F32", "Q8_0")
    assert default_kinds(recipe_for("tiny")) == default_kinds(recipe_for("7b")) == ("F32", "Q8_0", "Q4_K_M")


def test_ollama_takes_the_template_in_the_gguf(small, adapter, tmp_path):
    *files, path = ship_gguf(small, adapter, tmp_path / "ship", ("Q8_0", "F16"))
    assert [file.name.rpartition("-")[2] for file in files] == ["Q8_0.gguf", "F16.gguf"]
    text = path.read_text(encoding="utf-8")
    assert "TEMPLATE" not in text
    assert [line for line in text.splitlines() if "stop" in line] == ['PARAMETER stop "<|im_end|>"']
    assert f'SYSTEM "{small.system}"' in text
    model = Modelfile.read(text)
    assert (model.template, model.gguf, model.text) == ("", files[0].name, text)


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_tensors_and_header_equal_those_of_llama_cpps_own_converter(merged, tmp_path, kind):
    ours = write_gguf(merged, tmp_path / "ours.gguf", kind)
    theirs = official(merged, tmp_path, kind, CHATML_LLAMA.pre_tokenizer)
    one, other = ({t.name: (t.tensor_type, np.asarray(t.data).tobytes()) for t in GGUFReader(path).tensors}
                  for path in (ours, theirs))  # fmt: skip
    assert one == other
    own = ("general.", "GGUF.", "tokenizer.chat_template", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.unknown_token_id")
    kept = [{key: value for key, value in header(path).items() if not key.startswith(own)} for path in (ours, theirs)]
    assert kept[0] == kept[1] | {"tokenizer.ggml.add_eos_token": False}


# On the English model itself, where its package is


@pytest.mark.slow
def test_the_english_gguf_has_the_header_of_the_packages_own(english, tmp_path):
    ours, theirs = header(write_gguf(english.base, tmp_path / "x.gguf", "Q8_0", english, "baseline")), header(package_file())
    about = {key for key in ours.keys() | theirs.keys() if key.startswith(("general.", "GGUF."))}
    differ = {key for key in (ours.keys() | theirs.keys()) - about if ours.get(key) != theirs.get(key)}
    # never written: a space in front is sentencepiece's, and no byte is unknown; written: no EOS behind a prompt
    assert differ == {"tokenizer.ggml.add_space_prefix", "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.add_eos_token"}
    assert ours["general.license"] == theirs["general.license"] == "apache-2.0"
    assert ours["general.base_model.0.name"] == "SmolLM2-135M-Instruct"
    assert "general.base_model.0.repo_url" not in ours


@pytest.mark.slow
def test_the_english_words_are_the_same_in_llama_cpp_at_f32(english, tmp_path):
    file = write_gguf(english.base, tmp_path / "x.gguf", "F32", english, "baseline")
    talks = [prompt.messages(english.system) for prompt in load_prompts()[:60:20]]
    with LlamaCpp(file, exact=True) as server:
        assert same_words(server, english.base, load_tokenizer(english), talks, 40) > 60
