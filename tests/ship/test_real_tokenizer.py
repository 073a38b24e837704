"""The real path's text handling on the real vocabulary: formatting, masking, GGUF header, Modelfile, lengths."""

import dataclasses
import json

import pytest
from gguf import GGUFReader
from real_vocabulary import FIRST_SPECIAL, ROWS, SPECIAL, real_folder

from pushback_lib.core.common import DATA
from pushback_lib.core.records import load_records, prompt_messages, thought_text, to_messages
from pushback_lib.model.doctor import examine_model
from pushback_lib.model.llama_cpp import LlamaCpp
from pushback_lib.model.load import load_tokenizer
from pushback_lib.model.recipe import recipe_for
from pushback_lib.ship.gguf import write_gguf
from pushback_lib.ship.ollama import Modelfile
from pushback_lib.train.run import make_trainer

pytestmark = pytest.mark.slow

EOS, USER, ASSISTANT, BOS, _, THINK, UNTHINK = range(FIRST_SPECIAL, FIRST_SPECIAL + 7)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = real_folder(tmp_path_factory.mktemp("real"))
    return dataclasses.replace(recipe_for("1.5b"), base=str(folder), revision=None)


@pytest.fixture(scope="module")
def tokenizer(recipe):
    return load_tokenizer(recipe)


@pytest.fixture(scope="module")
def records():
    """A few of each behaviour, those with earlier turns, and one as `pushback data import` makes it of an answer alone."""
    everything = load_records(DATA / "friction" / "train.jsonl")
    bare = everything[0].model_copy(update={"subset": "unlabelled", "behaviour": "unlabelled", "thoughts": ()})
    return everything[::120] + [record for record in everything if record.history][:6] + [bare]


@pytest.mark.parametrize(
    ("text", "ids"),
    [("Hello world", [9707, 1879]), ("Hello, world!", [9707, 11, 1879, 0]), ("  \n\n", [18611]), ("2026", [17, 15, 17, 21])],
)
def test_the_vocabulary_is_the_published_one(tokenizer, text, ids):
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL] == list(range(FIRST_SPECIAL, FIRST_SPECIAL + 7))
    assert len(tokenizer) <= ROWS


def test_the_doctor_finds_nothing(recipe):
    report = examine_model(recipe)
    assert report.ok, str(report)


def test_prompts_are_formatted_with_single_tokens_for_roles_and_thought(tokenizer, records):
    for record in records:
        prompt = prompt_messages(record.user_input, "Think.", record.history)
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        assert ids[0] == BOS
        assert ids.count(BOS) == 1
        assert ids[-3:] == [ASSISTANT, THINK, *tokenizer("\n", add_special_tokens=False)["input_ids"]]
        assert ids.count(USER) == 1 + sum(turn.role == "user" for turn in record.history)


def test_the_loss_covers_thought_answer_and_end_alone(recipe, tokenizer, records, tmp_path):
    trainer = make_trainer(recipe, records, tmp_path)
    for record, row in zip(records, trainer.train_dataset, strict=True):
        learned = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        assert tokenizer.decode(learned) == f"{thought_text(record)}\n</think>\n\n{record.answer}{SPECIAL[0]}".lstrip("\n")
        assert learned[-1] == EOS
        assert learned.count(UNTHINK) == learned.count(EOS) == 1
        assert not {BOS, USER, ASSISTANT, THINK} & set(learned)
        before = len(row["labels"]) - len(learned)
        assert row["labels"] == [-100] * before + learned, "one stretch, to the end"


def test_no_record_is_cut_off_at_the_recipes_length(tokenizer):
    from trl.chat_template_utils import get_training_chat_template

    template, longest = get_training_chat_template(tokenizer), 0
    for split in ("train", "validation", "test"):
        rows = [to_messages(r, recipe_for("7b").system) for r in load_records(DATA / "friction" / f"{split}.jsonl")]
        texts = [tokenizer.apply_chat_template(row, chat_template=template, tokenize=False) for row in rows]
        longest = max(longest, *map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
    assert longest <= recipe_for("7b").max_length, f"{longest} tokens"


def test_the_gguf_carries_the_vocabulary_and_llama_cpp_splits_text_alike(recipe, tokenizer, records, tmp_path):
    path = write_gguf(recipe.base, tmp_path / "model.gguf", "F16")
    reader, names = GGUFReader(path), ("pre", "bos_token_id", "eos_token_id", "tokens")
    pre, bos, eos, tokens = (reader.get_field(f"tokenizer.ggml.{name}").contents() for name in names)
    assert (pre, bos, eos) == ("deepseek-r1-qwen", BOS, EOS)
    assert len(tokens) == ROWS
    assert tokens[USER : UNTHINK + 1] == list(SPECIAL[1:])
    with LlamaCpp(path) as llama:
        for record in records:
            messages = prompt_messages(record.user_input, "Think.", record.history)
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            assert llama.render(messages) == prompt
            for text in (prompt, record.answer, "Ça va ? 日本 ｜ ▁ 🙂 \t\n 1234567"):
                assert llama.tokenise(text) == tokenizer(text, add_special_tokens=False)["input_ids"], text


def test_the_modelfile_is_written_for_the_real_tokens(recipe, tokenizer):
    text = Modelfile.for_recipe(recipe, tokenizer, "model.gguf").text
    for token in SPECIAL[:4]:
        assert f"PARAMETER stop {json.dumps(token, ensure_ascii=False)}" in text
    assert "PARAMETER num_ctx 4096" in text
    assert "<｜Assistant｜><think>\n" in text
