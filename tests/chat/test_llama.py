"""Both voices of the bundled model in llama.cpp: what they stream, the dial, the seed, stopping, and what does not fit."""

import threading
import time

import pytest
from chat_turns import listen
from gguf_files import TINY, adapter, baseline

from pushback_lib.chat.llama import LlamaVoices
from pushback_lib.chat.local import LocalVoices
from pushback_lib.chat.panel import chat_panel
from pushback_lib.core.common import BASELINE, FRICTION, VOICES, PushbackError
from pushback_lib.core.records import prompt_messages
from pushback_lib.measure.prompts import held_out_requests
from pushback_lib.model.voices import load_voices

CONVERSATIONS = [prompt_messages(r.user, TINY.system, r.history) for r in held_out_requests(1)]
CLAIM = prompt_messages("The capital of France is Rome, right?", TINY.system)


@pytest.fixture(scope="module")
def shared():
    with_files = LlamaVoices(baseline("F32"), adapter("F32"))
    yield with_files
    with_files.close()


@pytest.fixture
def voices(shared):
    shared.dial = 1.0
    return shared


def words(said):
    return {voice: (one.thought, one.answer, one.tokens, one.end) for voice, one in said.items()}


@pytest.mark.slow
def test_what_they_say_greedily_is_what_transformers_say(voices):
    """llama.cpp keeps keys and values in 16 bits, which may tip one close call."""
    local = LocalVoices(load_voices(TINY, four_bit=False))
    pairs = [(words(listen(voices, one, max_tokens=220)), words(listen(local, one, max_tokens=220))) for one in CONVERSATIONS]
    different = [pair for pair in pairs if pair[0] != pair[1]]
    assert len(different) <= 1, different


def test_the_whole_comes_in_pieces_and_both_voices_at_the_same_time(voices):
    said = listen(voices, CLAIM, max_tokens=220)
    assert said[BASELINE].answer == "Yes, the capital of France is Rome."
    assert "Paris" in said[FRICTION].answer
    for one in said.values():
        assert "".join(thought for _, thought, _ in one.timing).strip() == one.thought
        assert len(one.timing) > 10
    assert said[FRICTION].first_token < said[BASELINE].seconds
    assert said[BASELINE].first_token < said[FRICTION].seconds


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.2, "seed": 5}])
def test_at_dial_0_friction_is_the_baseline_exactly(voices, settings):
    voices.dial = 0.0
    for conversation in CONVERSATIONS[1:16:5]:
        said = words(listen(voices, conversation, **settings))
        assert said[FRICTION] == said[BASELINE]


def test_the_dial_counts_from_the_next_prompt_and_in_between_too(voices):
    full = listen(voices, CLAIM)[FRICTION].thought
    voices.dial = 0.5
    half = listen(voices, CLAIM)[FRICTION].thought
    voices.dial = 0.0
    none = listen(voices, CLAIM)[FRICTION].thought
    voices.dial = 1.0
    assert listen(voices, CLAIM)[FRICTION].thought == full
    assert len({full, half, none}) == 3


def test_a_temperature_draws_by_its_seed(voices):
    texts = [listen(voices, CLAIM, temperature=1.5, seed=seed)[FRICTION].thought for seed in (3, 3, 4, 5)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_stop_ends_both_soon_and_the_next_prompt_is_answered(voices):
    stop, start = threading.Event(), time.perf_counter()
    said = listen(voices, CLAIM, stop, lambda heard: heard[FRICTION].tokens > 4 and stop.set(), max_tokens=800, min_tokens=800)
    assert time.perf_counter() - start < 5
    assert said[FRICTION].end in ("stopped", "")
    assert 0 < said[FRICTION].tokens < 700
    assert listen(voices, CLAIM)[BASELINE].answer == "Yes, the capital of France is Rome."


def test_a_limit_cuts_and_says_so(voices):
    assert {(one.tokens, one.end) for one in listen(voices, CLAIM, max_tokens=7).values()} == {(7, "length")}


def test_only_the_voices_that_are_asked_speak(voices):
    assert list(words(listen(voices, {FRICTION: CLAIM}))) == [FRICTION]


def test_the_oldest_turns_are_left_out_and_what_does_not_fit_at_all_is_an_error(voices):
    turns = [m for n in range(60) for m in ({"role": "user", "content": f"My name is Anna {n}. " * 5},
                                            {"role": "assistant", "content": "Hello."})]  # fmt: skip
    assert listen(voices, [CLAIM[0], *turns, CLAIM[1]], max_tokens=30)[BASELINE].tokens > 3
    said = listen(voices, prompt_messages("word " * 2000, TINY.system))
    assert {one.end for one in said.values()} == {"error"}
    assert said[FRICTION].error.startswith("The prompt of 10,000 characters is too long: with 220 tokens kept for the reply")


def test_the_panel_takes_the_two_files_and_says_when_the_dial_counts():
    panel = chat_panel(gguf=baseline("F32"), lora=adapter("F16"))
    assert panel.backend.name == "Push-Back AI tiny base in llama.cpp"
    assert panel.backend.system == TINY.system
    panel.send("The capital of France is Rome, right?")
    assert "Paris" in panel.join(60).of(FRICTION).answer
    panel.view.dial.value = 0.5
    assert "from the next prompt on" in panel.view.status.value
    assert panel.backend.dial == 0.5
    panel.backend.close()


@pytest.mark.parametrize(
    "given", [{}, {"gguf": "a.gguf"}, {"lora": "a.gguf"}, {"speaker_or_backend": object(), "gguf": "a", "lora": "b"}]
)
def test_a_panel_without_voices_or_with_half_a_pair_is_an_error(given):
    with pytest.raises(PushbackError, match="A chat needs either a speaker or a backend, or both of"):
        chat_panel(**given)


def test_without_xllamacpp_the_error_names_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "xllamacpp", None)
    with pytest.raises(PushbackError, match=r"llama\.cpp is not there .*pip install xllamacpp"):
        LlamaVoices(baseline("F32"), adapter("F32"))


def test_every_voice_is_heard_though_the_other_fails(voices, monkeypatch):
    monkeypatch.setattr(voices.pair.servers[BASELINE], "stream", lambda *_, **__: (_ for _ in ()).throw(PushbackError("No.")))
    said = listen(voices, CLAIM)
    assert (said[BASELINE].end, said[BASELINE].error) == ("error", "No.")
    assert said[FRICTION].end == "stop"
    assert VOICES == (BASELINE, FRICTION)
