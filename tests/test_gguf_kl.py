import numpy as np
import pytest
from gguf_files import friction

from pushback_lib.corpus import draw_requests
from pushback_lib.gguf_kl import divergence, kl, reference
from pushback_lib.recipe import recipe_for
from pushback_lib.records import prompt_messages

TINY = recipe_for("tiny")
LOG = np.log


@pytest.mark.parametrize(
    ("true", "other", "expected"),
    [
        ([0.5, 0.5], [0.5, 0.5], 0.0),
        ([1.0, 0.0], [0.5, 0.5], 0.6931472),
        ([0.5, 0.5], [0.25, 0.75], 0.1438410),
        ([0.9, 0.1], [0.1, 0.9], 1.7577797),
    ],
)
def test_divergence_of_known_distributions(true, other, expected):
    with np.errstate(divide="ignore"):
        assert kl(LOG(np.array(true)), LOG(np.array(other))) == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def against():
    requests = draw_requests(1, seed=3, held_out=True)[::3]
    talks = [prompt_messages(one.user, TINY.system, one.history) for one in requests]
    return reference(friction("F32"), talks, TINY.max_new_tokens, stride=6)


# Mean KL in nats. About ten times what was measured on 685 positions: BF16 1e-7, F16 3e-8, Q8_0 2e-6,
# Q4_K_M 1.6e-4. A wrong scale or a swapped tensor gives more than 1.
BOUNDS = {"F32": 1e-6, "BF16": 1e-6, "F16": 1e-6, "Q8_0": 3e-5, "Q5_K_M": 1e-3, "Q4_K_M": 2e-3}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOUNDS)
def test_no_format_strays_far_from_f32(against, kind):
    found = divergence(friction(kind), against)
    assert found.low <= found.mean <= found.high <= found.worst or found.worst < 1e-6
    assert found.mean < BOUNDS[kind], str(found)
    assert found.replies == 6
    assert found.positions == len(against.contexts) > 60


@pytest.mark.slow
def test_the_baseline_is_not_within_the_bounds(tmp_path, against):
    from pushback_lib.gguf_writer import write_gguf

    found = divergence(write_gguf(TINY.base, tmp_path / "base.gguf", "F32"), against)
    assert found.mean > 100 * BOUNDS["Q4_K_M"], str(found)
