"""Both voices of the bundled model from one batch, and the prompts to choose from."""

import threading
import time

import pytest
from chat_turns import listen
from punishing_base import punishing_base

from pushback_lib.chat.backend import Settings
from pushback_lib.chat.local import LocalVoices, Row, fitting, presets_for, sampling, strange_words
from pushback_lib.core.common import VOICES
from pushback_lib.core.records import of_levels, prompt_messages
from pushback_lib.measure.prompts import bundled_prompts, held_out_requests, load_prompts
from pushback_lib.model.recipe import recipe_for
from pushback_lib.model.voices import load_voices
from pushback_lib.train.run import training_records


@pytest.mark.parametrize("name", ["tiny", "english", "1.5b"])
def test_every_behaviour_has_prompts_that_push_and_prompts_that_do_not(name):
    prompts = bundled_prompts() if name == "tiny" else of_levels(load_prompts(), ["easy"] if name == "english" else [])
    wants = {prompt.user_input: prompt.wants for prompt in prompts}
    presets = presets_for(recipe_for(name))
    by = {preset.behaviour: [wants[p.text] for p in presets if p.behaviour == preset.behaviour] for preset in presets}
    for behaviour in ("disagree", "clarify", "doubt", "refuse"):
        assert by[behaviour].count(behaviour) == by[behaviour].count("comply") == 3, behaviour


@pytest.mark.parametrize("name", ["english", "1.5b"])
def test_no_preset_stands_in_a_training_file(name):
    trained = {record.user_input for record in training_records(recipe_for(name))}
    assert not trained & {preset.text for preset in presets_for(recipe_for(name))}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("How do I deploy a Kubernetes cluster?", ("deploy", "kubernetes", "cluster")),
        ("I want to quit my job and trade crypto.", ("quit", "job", "trade", "crypto")),
        ("Müsste ich das wissen?", ("müsste", "ich", "das", "wissen")),
        ("What colour is a blimmer?", ()),  # one invented word is what it is asked about
        ("12 + 5?", ()),
        ("", ()),
    ],
)
def test_words_from_outside_the_small_language_are_named_and_none_of_its_own(text, words):
    assert strange_words(text) == words
    assert not any(strange_words(prompt.user_input) for prompt in bundled_prompts())


TINY = recipe_for("tiny")
REQUESTS = held_out_requests(1)
CONVERSATIONS = [prompt_messages(r.user, TINY.system, r.history) for r in REQUESTS]
CLAIM = prompt_messages("The capital of France is Rome, right?", TINY.system)


@pytest.fixture(scope="module")
def speaker():
    return load_voices(TINY, four_bit=False)


@pytest.fixture
def voices(speaker):
    return LocalVoices(speaker)


def words(said):
    return {voice: (one.thought, one.answer, one.tokens, one.end) for voice, one in said.items()}


def test_what_is_streamed_is_what_the_voices_say(speaker, voices):
    some = CONVERSATIONS[::6]
    for conversation, spoken in zip(some, speaker.speak(some), strict=True):
        expected = {v: (s.thought, s.answer, s.tokens, "stop") for v, s in spoken.items()}
        assert words(listen(voices, conversation)) == expected, conversation


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 3}])
def test_nothing_of_a_bases_own_settings_is_heard_in_a_chat(voices, settings, tmp_path):
    others = LocalVoices(load_voices(punishing_base(tmp_path / "base"), TINY.shipped_adapter, four_bit=False))
    asked = settings | {"max_tokens": 90}
    assert words(listen(others, CLAIM, **asked)) == words(listen(voices, CLAIM, **asked))


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 3}])
def test_one_batch_says_what_the_voices_say_apart(voices, settings):
    """Conversations of different length for each voice, so that one row is padded."""
    longer = prompt_messages("And now?", TINY.system, REQUESTS[-1].history) + CLAIM[1:]
    for both, limit in (((CONVERSATIONS[0],) * 2, 220), ((CLAIM, longer), 60), ((longer, CLAIM), 60)):
        asked = dict(zip(VOICES, both, strict=True))
        apart = [words(listen(voices, {voice: asked[voice]}, max_tokens=limit, **settings)) for voice in VOICES]
        assert words(listen(voices, asked, max_tokens=limit, **settings)) == apart[0] | apart[1]


@pytest.mark.parametrize("kind", ["NF4", "16 bit"])
def test_rows_with_their_own_share_of_the_adapter_keep_the_models_dtype(kind):
    import torch

    speaker = load_voices(TINY, four_bit=kind == "NF4")
    if kind == "16 bit":
        speaker.model.to(torch.bfloat16)
    voices = LocalVoices(speaker)
    said = listen(voices, CLAIM)
    assert said["baseline"].answer == "Yes, the capital of France is Rome."
    assert "Paris" in said["friction"].answer
    scales = {layer.scaling["friction"] for layer in speaker.model.modules() if hasattr(layer, "lora_A")}
    assert scales == {TINY.alpha / TINY.rank}, "put back"


def test_half_a_character_waits_for_its_other_half(speaker):
    events, text = [], "Müßte Zoë 12 € 😀?"
    row = Row("friction", speaker.tokenizer, True, 0.0, events.append)
    for token in [*speaker.tokenizer(text)["input_ids"], speaker.tokenizer.eos_token_id, 5]:
        row.add(token)
    assert "".join(event.text for event in events) == text
    assert "\ufffd" not in "".join(event.text for event in events)
    assert [event.end for event in events if event.end] == ["stop"]
    assert any(event.text == "" for event in events[:-1])


def test_both_voices_stream_at_the_same_time(voices):
    said = listen(voices, CLAIM)
    assert len(said["friction"].timing) > 50
    assert said["friction"].first_token < said["baseline"].seconds
    assert said["baseline"].first_token < said["friction"].seconds


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.2, "seed": 5}])
def test_at_dial_0_friction_is_the_baseline_exactly(voices, settings):
    voices.dial = 0.0
    for conversation in CONVERSATIONS[1:16:5]:
        said = words(listen(voices, conversation, **settings))
        assert said["friction"] == said["baseline"]


def test_the_dial_counts_from_the_next_token_and_leaves_the_model_as_it_was(speaker, voices):
    def to_nought_after_ten(buffers):
        voices.dial = 0.0 if buffers["friction"].tokens >= 10 else 1.0

    as_trained = listen(voices, CLAIM)["friction"]
    moved = listen(voices, CLAIM, on_event=to_nought_after_ten)["friction"]
    head = "".join(thought for _, thought, _ in moved.timing[:8])
    assert as_trained.thought.startswith(head)
    assert moved.thought != as_trained.thought
    assert speaker.speak([CLAIM])[0]["friction"].thought == as_trained.thought


def test_a_temperature_draws_by_its_seed(voices):
    texts = [listen(voices, CLAIM, temperature=1.5, seed=seed)["friction"].thought for seed in (3, 3, 4, 5)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_the_draw_follows_the_models_own_probabilities(voices):
    """Gumbel-max is sampling: over many seeds, shares are those of the softmax with the tail beyond top-p left out."""
    import torch

    scores = torch.tensor([[2.0, 1.0, 0.0, -6.0]])
    drawn = torch.stack([sampling(1.0, seed)(None, scores).argmax(-1) for seed in range(4000)])
    shares = torch.bincount(drawn.flatten(), minlength=4) / 4000
    expected = torch.softmax(scores[0, :3], -1)
    assert torch.allclose(shares[:3], expected, atol=0.04)  # five standard errors
    assert shares[3] == 0


def test_the_limit_is_kept_and_told(voices):
    assert {(said.tokens, said.end) for said in listen(voices, CLAIM, max_tokens=5).values()} == {(5, "length")}


def test_stop_ends_both_voices_with_what_they_have(voices):
    stop = threading.Event()
    said = listen(voices, CLAIM, stop=stop, on_event=lambda h: h["friction"].tokens >= 5 and stop.set(), max_tokens=200)
    assert said["friction"].end == said["baseline"].end == "stopped"
    assert 5 <= said["friction"].tokens < 60
    assert said["friction"].thought.startswith("Problem")


def test_a_cell_that_generates_waits_for_the_chat(speaker, voices):
    """Two generations at once would read each other's adapters."""
    expected = speaker.speak([CLAIM], voices=["baseline"])[0]["baseline"].text
    results = []
    events = voices.stream(dict.fromkeys(VOICES, CLAIM), Settings(), threading.Event())
    next(event for event in events if event.voice)
    beside = threading.Thread(target=lambda: results.append(speaker.speak([CLAIM], voices=["baseline"])[0]["baseline"].text))
    beside.start()
    list(events)
    beside.join(60)
    assert results == [expected]


def test_a_small_model_computes_on_one_thread_and_gives_the_others_back(voices, monkeypatch):
    import torch

    asked, set_threads, before = [], torch.set_num_threads, torch.get_num_threads()
    monkeypatch.setattr(torch, "set_num_threads", lambda n: (asked.append(n), set_threads(n)))
    listen(voices, CLAIM, max_tokens=3)
    assert asked == [1, before]
    assert torch.get_num_threads() == before


def test_the_oldest_turns_are_left_out_where_the_model_has_no_room(speaker):
    turns = [m for n in range(30) for m in ({"role": "user", "content": f"My name is Anna {n}. " * 5},
                                            {"role": "assistant", "content": "Hello."})]  # fmt: skip
    ids = fitting(speaker, [CLAIM[0], *turns, CLAIM[1]], 220)
    assert len(ids) <= 1024 - 220
    text = speaker.tokenizer.decode(ids)
    assert "Anna 29" in text
    assert "Anna 0." not in text
    assert TINY.system in text


@pytest.mark.parametrize(
    ("user", "limit"), [("word " * 2000, 220), ("x" * 1_000_000, 220), ("Hello.", 1020), ("Hello.", 32768)]
)
def test_a_prompt_that_does_not_fit_is_an_error_at_once(voices, user, limit):
    start = time.process_time()
    said = listen(voices, prompt_messages(user, TINY.system), max_tokens=limit)
    assert {one.end for one in said.values()} == {"error"}
    assert said["friction"].error.startswith(f"The prompt of {len(user):,} characters is too long")
    assert "Shorten the prompt, or lower the maximum of tokens" in said["friction"].error
    assert time.process_time() - start < 5
