"""Find the records that are longer than the window of a training, before any of them is cut."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

from ..core.common import PushbackError
from ..core.records import Record, to_messages
from ..model.load import family_for, load_tokenizer
from ..model.recipe import Recipe, config_for
from .guard import is_first_process
from .plan import check_size

SHOWN = 5  # records that are too long, by name


def token_lengths(records: Iterable[Record], recipe: Recipe) -> list[int]:
    """How many tokens each record is trained on as a whole, prompt, reply and end token."""
    tokenizer, template = load_tokenizer(recipe), family_for(recipe).training_template()
    conversations = (to_messages(record, recipe.system) for record in records)
    texts = [tokenizer.apply_chat_template(one, chat_template=template, tokenize=False) for one in conversations]
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]] if texts else []


def fitting(records: Sequence[Record], recipe: Recipe, drop_long: bool = False, what: str = "records") -> list[Record]:
    """The records that the recipe's window holds as a whole; with `drop_long` the others are named in a warning and left out.

    Raises PushbackError naming them otherwise, and if none is left, or the model takes no sequence of that length.
    """
    window, limit = recipe.max_length, config_for(recipe).max_position_embeddings
    check_size(config_for(recipe), window, None)
    lengths = list(zip(token_lengths(records, recipe), records, strict=True))
    kept = [record for length, record in lengths if length <= window]
    if len(kept) == len(records):
        return kept
    long = sorted(((length, record.id) for length, record in lengths if length > window), reverse=True)
    named = ", ".join(f"{id} ({length:,})" for length, id in long[:SHOWN]) + (", …" if long[SHOWN:] else "")
    found = f"{len(long):,} of {len(records):,} {what} are longer than the window of {window:,} tokens: {named}."
    if drop_long and kept:
        if is_first_process():
            warnings.warn(f"{found} They are left out.", stacklevel=3)
        return kept
    most = long[0][0]
    cure = f"Pass --max-length {most} to hold them all" if most <= limit else f"Shorten them (this model takes {limit:,})"
    raise PushbackError(f"{found} {cure}{', or --drop-long (drop_long=True) to leave them out' if kept else ''}.")
