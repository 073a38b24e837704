"""What one model for two voices costs."""

import pytest

from pushback_lib.bench_voices import VoiceTimes, bench_voices, voice_bytes
from pushback_lib.recipe import recipe_for
from pushback_lib.voices import load_speaker


def config_of(layers, **shape):
    from transformers import Qwen2Config

    return Qwen2Config(num_hidden_layers=layers, **shape)


SHAPES = {  # hidden, intermediate, layers, heads, KV heads, vocabulary, from the published config files
    "1.5b": (1536, 8960, 28, 12, 2, 151936),
    "7b": (3584, 18944, 28, 28, 4, 152064),
}


@pytest.mark.parametrize("name", SHAPES)
def test_two_voices_take_at_most_0_6_of_two_models(name):
    hidden, intermediate, layers, heads, kv_heads, words = SHAPES[name]
    config = config_of(layers, hidden_size=hidden, intermediate_size=intermediate, num_attention_heads=heads,
                       num_key_value_heads=kv_heads, vocab_size=words, tie_word_embeddings=False)  # fmt: skip
    recipe = recipe_for(name)
    counted = voice_bytes(recipe, config)
    assert counted.base == 2 * recipe.parameters
    assert 0.5 < counted.ratio <= 0.6


def test_a_measurement_is_of_the_length_it_says_and_says_what_it_is():
    times = bench_voices(load_speaker(recipe_for("tiny"), four_bit=False), tokens=30, rounds=2)
    assert (times.tokens, len(times.together), len(times.apart), len(times.first_token)) == (30, 2, 2, 2)
    assert times.same
    assert all(0 < first < both for first, both in zip(times.first_token, times.together, strict=True))
    assert "30 tokens a voice, 2 rounds" in str(times)


def test_the_ratio_is_the_median_of_the_rounds():
    times = VoiceTimes(60, (1.0, 3.0, 1.2), (2.0, 3.0, 2.0), (0.1, 0.1, 0.3), False, 2, (0.1, 0.2))
    assert times.ratio == pytest.approx(0.6)
    assert "from 0.50 to 1.00" in str(times)
    assert "NOT the same" in str(times)
