"""What the tests of small twins share; each of their modules has its own `small`, a recipe, and `adapter`, a folder."""

import pytest

from pushback_lib.model.llama_cpp import LlamaCpp
from pushback_lib.ship.gguf import write_gguf
from pushback_lib.ship.merge import merge_adapter


@pytest.fixture(scope="module")
def merged(small, adapter, tmp_path_factory):
    return merge_adapter(small, adapter, tmp_path_factory.mktemp("merged") / "merged")


@pytest.fixture(scope="module")
def server(merged, tmp_path_factory):
    with LlamaCpp(write_gguf(merged, tmp_path_factory.mktemp("gguf") / "x.gguf", "F32"), exact=True) as one:
        yield one
