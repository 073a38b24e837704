"""The main job: make the data, fine-tune, ask both voices, report; knows nothing about how any of these is done."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .cards import machine_name, write_adapter_card
from .checks import adapter_fingerprint, fingerprint
from .corpus import friction_records
from .evaluate import N_PER_KIND, OTHER_KINDS, Row, as_dicts, counts, evaluate, friction_rate, missed_targets
from .finetune import train_adapter
from .jsonl import replacing, write_jsonl
from .models import FRICTION
from .recipe import recipe_for
from .records import save_records
from .report import headline, pair_text, plot, side_by_side, text_table, write_report
from .requests import FRICTION_KINDS, KINDS
from .voices import BASELINE, load_speaker

SHOWN = ("false_claim", "missing_detail", "harmful")


def run_demo(out: str | Path, json_path: str | Path | None = None, results: str | Path | None = None) -> int:
    """Runs the whole path on the bundled model; returns 0 if friction's interval lies wholly above the baseline's.

    `json_path` also gets the counts by kind and voice; the folder `results` gets them with rates and picture.
    """
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
    with tqdm(desc="requests", total=N_PER_KIND * len(KINDS), unit=" requests") as bar:
        rows = evaluate(speaker, progress=bar.update)
    write_adapter_card(training.adapter, recipe, rows, training.seconds)
    _write(out, json_path, rows, f"QLoRA fine-tuning took {training.seconds:.0f} s.")
    if results:
        write_results(Path(results), rows, training.seconds, fingerprint(recipe), adapter_fingerprint(training.adapter))
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


def write_results(folder: Path, rows: list[Row], seconds: float, model: str, adapter: str) -> None:
    """Writes demo.json (rates, counts, seconds of training, what was measured) and demo.png, for slides and README."""
    rates = {
        "friction": friction_rate(rows, FRICTION, FRICTION_KINDS),
        "over_friction": friction_rate(rows, FRICTION, OTHER_KINDS),
        "baseline": friction_rate(rows, BASELINE, FRICTION_KINDS),
        "baseline_over_friction": friction_rate(rows, BASELINE, OTHER_KINDS),
    }
    found = {"rates": {name: asdict(rate) for name, rate in rates.items()}, "kinds": counts(rows),
             "missed_targets": missed_targets(rows), "training_seconds": round(seconds), "machine": machine_name(),
             "provenance": {"model": model, "adapter": adapter}}  # fmt: skip
    with replacing(folder / "demo.json") as part:
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    with replacing(folder / "demo.png") as part:
        plot(rows).savefig(part, format="png", dpi=110)


def _show(rows: list[Row]) -> None:
    for pair in side_by_side(rows, SHOWN):
        print("\n" + pair_text(*pair))
    print("\n" + text_table(rows) + "\n")
    missed: list[Any] = missed_targets(rows)
    print("\n".join(f"target missed: {line}" for line in missed) or f"All targets are met on all {len(KINDS)} kinds.")
