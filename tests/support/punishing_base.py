"""A copy of the bundled base whose own settings of `generate` would change every reply, as those of published bases do."""

import dataclasses
import json
import shutil
from pathlib import Path

from pushback_lib.model.recipe import Recipe, recipe_for

SETTINGS = {
    "do_sample": True, "temperature": 0.7, "top_k": 5, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2,
    "min_new_tokens": 60, "max_length": 900, "suppress_tokens": [44, 46], "stop_strings": ["the"], "num_beams": 2,
}  # fmt: skip
TOKENS = {"eos_token_id": [625, 13], "pad_token_id": 13}
FILES = ("generation_config.json", "config.json")  # older models have them in the second


def punishing_base(folder: Path, file: str = FILES[0]) -> Recipe:
    """The recipe of the copy in `folder`, with the settings in one of FILES."""
    tiny = recipe_for("tiny")
    shutil.copytree(tiny.base, folder)
    (folder / "generation_config.json").unlink()
    path = folder / file
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else TOKENS
    path.write_text(json.dumps(found | SETTINGS), encoding="utf-8")
    return dataclasses.replace(tiny, base=str(folder))
