"""The main job: make the data, fine-tune, ask both voices, report; knows nothing about how any of these is done."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from .cards import write_adapter_card
from .corpus import friction_records
from .evaluate import Row, as_dicts, counts, evaluate, friction_rate, missed_targets
from .finetune import train_adapter
from .jsonl import replacing, write_jsonl
from .models import FRICTION
from .recipe import recipe_for
from .records import save_records
from .report import headline, pair_text, side_by_side, text_table, write_report
from .requests import FRICTION_KINDS, KINDS
from .voices import BASELINE, load_speaker

SHOWN = ("false_claim", "missing_detail", "harmful")


def run_demo(out: str | Path, json_path: str | Path | None = None) -> int:
    """Runs the whole path on the bundled model; returns 0 if friction's interval lies wholly above the baseline's."""
    from tqdm.auto import tqdm

    out, recipe, start = Path(out), recipe_for("tiny"), time.monotonic()
    records = friction_records(recipe.examples, recipe.seed)
    save_records(out / "train.jsonl", records)
    print(f"1/3  Data: {len(records)} friction examples in the small language, in {out / 'train.jsonl'}")

    print(f"2/3  Fine-tune: QLoRA, NF4 base, rank {recipe.rank}, learning rate {recipe.learning_rate:g}", flush=True)
    training = train_adapter(recipe, records, out / "adapter")
    print(f"     {training.seconds:.0f} s, last loss {training.losses[-1][1]:.3f}, "
          f"{100 * training.trainable / training.total:.0f} % of the weights trained")  # fmt: skip

    print("3/3  Evaluate: both voices, on words that training never held", flush=True)
    speaker = load_speaker(recipe, training.adapter)
    with tqdm(desc="requests", unit="request") as bar:
        rows = evaluate(speaker, progress=bar.update)
    write_adapter_card(training.adapter, recipe, rows, training.seconds)
    _write(out, json_path, rows, f"QLoRA fine-tuning took {training.seconds:.0f} s.")
    _show(rows)
    print(f"\n{headline(rows)}\nReport: {out / 'report.html'}   ({time.monotonic() - start:.0f} s in all)")
    friction, baseline = (friction_rate(rows, voice, FRICTION_KINDS) for voice in (FRICTION, BASELINE))
    return 0 if friction.low > baseline.high else 1


def _write(out: Path, json_path: str | Path | None, rows: list[Row], about: str) -> None:
    write_jsonl(out / "rows.jsonl", as_dicts(rows))
    write_report(out / "report.html", "Baseline against friction", rows, missed_targets(rows), about)
    for path in filter(None, (out / "figures.json", json_path)):
        with replacing(path) as part:
            part.write_text(json.dumps(counts(rows), indent=1) + "\n", encoding="utf-8")


def _show(rows: list[Row]) -> None:
    for pair in side_by_side(rows, SHOWN):
        print("\n" + pair_text(*pair))
    print("\n" + text_table(rows) + "\n")
    missed: list[Any] = missed_targets(rows)
    print("\n".join(f"target missed: {line}" for line in missed) or f"All targets are met on all {len(KINDS)} kinds.")
