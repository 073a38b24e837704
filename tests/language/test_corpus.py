"""What base and adapter learn from: repeatable draws without held-out words, and no request of the test set."""

import hashlib
import json
import random
import re

import pytest
from examples import BEHAVIOURS

from pushback_lib.core.files import empty_fields
from pushback_lib.core.records import PERSONA_NAMES, thought_text
from pushback_lib.language import world
from pushback_lib.language.corpus import _transcript, base_documents, draw_requests, friction_records
from pushback_lib.language.requests import CONTRAST_KINDS, FRICTION_KINDS, KINDS, Words

NOUNS = {*world.NAMES, *world.THINGS, *world.DANGERS, *world.ANIMALS}
ENTITIES = NOUNS | {re.sub(r"^(a|an) ", "", fact.entity) for fact in world.facts()}
HELD_OUT = sorted(f"sum of {word}" if " and " in word else word for word in ENTITIES if world.is_held_out(word))
PATTERN = re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, HELD_OUT)) + r")(?:s)?(?![\w-])")


def held_out_words(text: str) -> set[str]:
    return set(PATTERN.findall(text))


def test_the_pattern_finds_what_it_should():
    word = next(word for word in HELD_OUT if word in world.THINGS)
    assert held_out_words(f"Send two {word}s.") == {word}
    assert not held_out_words("Send two xylophoneries.")


def test_no_friction_example_holds_a_held_out_word():
    for record in friction_records(3000, seed=7):
        text = " ".join([*(t.content for t in record.history), record.user_input, thought_text(record), record.answer])
        assert not held_out_words(text), text


def test_no_transcript_of_the_base_holds_a_held_out_word():
    transcripts = [d for d in base_documents(6000, seed=3, system="s") if isinstance(d, str) and PERSONA_NAMES[0] in d]
    assert len(transcripts) > 1500
    for text in transcripts:
        assert not held_out_words(text), text


def test_chats_of_the_base_hold_held_out_words_only_in_plain_questions_about_facts():
    for document in base_documents(6000, seed=4, system="s"):
        found = isinstance(document, list) and held_out_words(" ".join(m["content"] for m in document))
        if found:
            assert document[-1]["content"].split("</think>")[1].strip().startswith("The "), (found, document)
            assert len(document) == 3


def test_every_test_request_asks_about_held_out_words_or_invented_ones():
    for request in draw_requests(20, seed=1, held_out=True):
        said = " ".join([*(t.content for t in request.history), request.user])
        assert held_out_words(said) or request.kind == "made_up", said


def test_test_and_training_share_no_request():
    asked = {r.user for r in draw_requests(48, seed=2026, held_out=True) if not r.history}
    assert asked.isdisjoint(record.user_input for record in friction_records(4500, seed=7) if not record.history)


def test_drawing_is_repeatable_and_without_repetition():
    first, second = (draw_requests(30, seed=5, held_out=False) for _ in range(2))
    assert first == second
    texts = [(r.kind, tuple(t.content for t in r.history), r.user) for r in first]
    assert len(texts) == len(set(texts)) == 30 * len(KINDS)


def test_the_draws_are_those_of_the_shipped_model():
    """Base and adapter were trained on these exact draws: another digest means that both must be trained again."""
    drawn = [record.model_dump(mode="json", exclude=empty_fields(record)) for record in friction_records(3600, 7)]
    digest = hashlib.sha256(json.dumps(drawn, sort_keys=True, default=str).encode()).hexdigest()
    assert digest == "5917484d3ff22036e4e12a546b1436aae4838d8ad1de7bd0bc1acfc0177f1c23"


def test_every_friction_kind_has_its_contrast_and_every_kind_is_drawn():
    assert len(FRICTION_KINDS) >= 4
    assert len(set(CONTRAST_KINDS)) == len(FRICTION_KINDS)
    records = friction_records(900, seed=0)
    assert {record.domain for record in records} == set(KINDS)
    assert {record.behaviour for record in records} == set(BEHAVIOURS)


def test_there_are_twelve_families_with_five_wordings_each():
    wordings: dict[str, set[str]] = {}
    for request in draw_requests(400, seed=9, held_out=False):
        shape = re.sub(r"[\w-]+", lambda word: word[0] if word[0] in COMMON else "_", request.user)
        wordings.setdefault(request.family, set()).add(shape)
    assert len(wordings) >= 12
    assert all(len(shapes) >= 5 for shapes in wordings.values()), {f: len(s) for f, s in wordings.items() if len(s) < 5}


COMMON = set("the of is a an I it to in on what that do you with and me not how tell know need please give quick".split())


@pytest.mark.parametrize("kind", KINDS)
def test_each_reply_names_what_it_must(kind):
    for request in draw_requests(40, seed=2, held_out=True):
        if request.kind == kind:
            assert all(must.lower() in request.answer.lower() for must in request.must), request


def test_transcripts_are_plain_text():
    words = Words(random.Random(0))
    for request in draw_requests(5, seed=0, held_out=False):
        assert "<" not in _transcript(request, words)
