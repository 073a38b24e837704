"""Two voices from one base, with the adapter that ships."""

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from punishing_base import FILES, punishing_base

from pushback_lib.core.common import BASELINE, FRICTION
from pushback_lib.core.records import prompt_messages
from pushback_lib.measure.prompts import held_out_requests
from pushback_lib.model.recipe import recipe_for
from pushback_lib.model.voices import greedy, load_voices

TINY = recipe_for("tiny")
REQUESTS = held_out_requests(1)
CONVERSATIONS = [prompt_messages(r.user, TINY.system, r.history) for r in REQUESTS]


@pytest.fixture(scope="module")
def speaker():
    return load_voices(TINY)


def test_one_mixed_batch_says_what_each_voice_says_alone(speaker):
    together = speaker.speak(CONVERSATIONS[:4])
    for voice in (BASELINE, FRICTION):
        alone = speaker.speak(CONVERSATIONS[:4], voices=[voice])
        assert [both[voice].text for both in together] == [one[voice].text for one in alone]


def test_the_baseline_is_the_base_with_the_adapter_off(speaker):
    with speaker.model.disable_adapter():
        texts = greedy(speaker.model, speaker.tokenizer, TINY, CONVERSATIONS[:2])
    assert [both[BASELINE].text for both in speaker.speak(CONVERSATIONS[:2])] == texts


def test_both_voices_think_and_answer(speaker):
    for spoken in speaker.speak(CONVERSATIONS):
        for voice in (BASELINE, FRICTION):
            assert spoken[voice].finished
            assert spoken[voice].thought
            assert spoken[voice].answer
        assert spoken[FRICTION].thought.startswith("Problem Framer: ")
        assert "Problem Framer" not in spoken[BASELINE].text


def test_a_limit_of_tokens_is_told(speaker):
    spoken = speaker.speak(CONVERSATIONS[:1], max_new_tokens=5)[0][FRICTION]
    assert not spoken.finished
    assert (spoken.tokens, spoken.answer) == (5, "")


def test_sampling_repeats_with_its_seed(speaker):
    texts = [speaker.ask("Hello, I am Anna.", temperature=1.5, seed=seed)[FRICTION].text for seed in (3, 3, 4, 5)]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_any_number_of_conversations_keeps_its_order(speaker):
    seen = []
    some = CONVERSATIONS[::-3]  # not in the order of their lengths
    batched = speaker.speak_all(some, batch=4, progress=seen.append)
    assert sum(seen) == len(some)
    assert [b[BASELINE].answer for b in batched] == [s[BASELINE].answer for s in speaker.speak(some)]


@pytest.mark.parametrize(("free", "dtype"), [(8.0, "float32"), (1.0, "uint8")])
def test_a_chat_on_a_cpu_is_unquantised_where_memory_allows(monkeypatch, free, dtype):
    monkeypatch.setattr("pushback_lib.model.voices.memory_gib", lambda: (free, 64.0))
    monkeypatch.setattr("pushback_lib.model.load.check_memory", lambda *_: None)
    weight = load_voices(TINY, four_bit=None).model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight
    assert str(weight.dtype) == f"torch.{dtype}"


def test_a_speaker_generates_once_at_a_time(speaker):
    """PEFT's hooks on the model would mix up the adapters of two generations."""
    expected = speaker.speak(CONVERSATIONS[:2])
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(speaker.speak, [CONVERSATIONS[:2]] * 3)) == [expected] * 3


@pytest.fixture(scope="module", params=FILES)
def others(request, tmp_path_factory):
    recipe = punishing_base(tmp_path_factory.mktemp("base") / "base", request.param)
    return load_voices(recipe, TINY.shipped_adapter)


@pytest.mark.parametrize("drawn", [{}, {"temperature": 0.9, "seed": 4, "max_new_tokens": 40}], ids=["greedy", "drawn"])
def test_nothing_of_a_bases_own_settings_reaches_a_reply(speaker, others, drawn):
    assert others.speak(CONVERSATIONS[:2], **drawn) == speaker.speak(CONVERSATIONS[:2], **drawn)


def test_nothing_of_a_bases_own_settings_reaches_greedy_texts(speaker, others):
    found = [greedy(one.model, one.tokenizer, TINY, CONVERSATIONS[:1]) for one in (others, speaker)]
    assert found[0] == found[1]


def test_a_reply_warns_of_nothing(others, caplog):
    """Above the first chat of a notebook every warning is red, transformers' own log too."""
    log = logging.getLogger("transformers")
    log.addHandler(caplog.handler)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for temperature in (0.0, 0.6):
            others.speak(CONVERSATIONS[:2], max_new_tokens=4, temperature=temperature)
    log.removeHandler(caplog.handler)
    assert ([str(one.message) for one in warned], caplog.messages) == ([], [])
