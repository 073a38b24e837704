"""Writes an evaluation as logs that `inspect_ai` reads and views, one for each voice.

The fields are those of `inspect_ai.log.EvalLog`, log version 2 (https://inspect.aisi.org.uk/eval-logs.html); the tests read
the files with the package itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core.common import VOICES
from ..core.files import replacing
from ..core.records import prompt_messages
from .figures import of_voice, rate, right, right_content
from .judge import Origin, Response

SCORES = {"right": right, "right_content": right_content}


def export_inspect(folder: Path, rows: Sequence[Response]) -> list[Path]:
    """Writes one log for each voice into the folder, in place of an older log of the same run; returns the paths.

    Named as inspect names its own (time, task, task id), because it lists no others.
    """
    paths, now = [], datetime.now(UTC).isoformat(timespec="seconds")
    for voice in VOICES:
        if mine := of_voice(rows, voice):
            log = _log(voice, mine, now)
            name = f"_{log['eval']['task']}_{log['eval']['task_id']}.json"
            for old in folder.glob(f"*{name}"):
                old.unlink()
            paths.append(folder / (now.replace(":", "-") + name))
            with replacing(paths[-1]) as part:
                part.write_text(json.dumps(log, ensure_ascii=False, indent=1), encoding="utf-8")
    return paths


def _log(voice: str, rows: Sequence[Response], now: str) -> dict[str, Any]:
    origin = rows[0].provenance
    ids, samples = list(dict.fromkeys(row.prompt_id for row in rows)), max(row.sample for row in rows) + 1
    run = hashlib.sha256(f"{voice} {origin.model_dump_json()}".encode()).hexdigest()
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": run[:22], "run_id": run[22:44], "task_id": run[42:64], "created": now, "task": f"pushback-{voice}",
            "task_version": 0, "model": f"{origin.backend}/{voice}", "model_base_url": origin.base_url or None,
            "model_generate_config": {"max_tokens": origin.max_tokens, "temperature": origin.temperature, "seed": origin.seed},
            "dataset": {"name": f"prompt set {origin.prompt_set[:12]}", "samples": len(ids), "sample_ids": ids,
                        "shuffled": False},
            "config": {"epochs": samples}, "metadata": origin.model_dump(), "packages": {},
        },
        "plan": {"name": "plan", "steps": [{"solver": "generate", "params": {}}]},
        "results": _results(rows),
        "stats": {"started_at": now, "completed_at": now},
        "samples": [_sample(row, origin) for row in rows],
    }  # fmt: skip


def _results(rows: Sequence[Response]) -> dict[str, Any]:
    scores = []
    for name, test in SCORES.items():
        found = rate(rows, test)
        values = {"accuracy": found.share, "wilson_low": found.low, "wilson_high": found.high}
        metrics = {metric: {"name": metric, "value": value} for metric, value in values.items()}
        scores.append({"name": name, "scorer": name, "scored_samples": len(rows), "unscored_samples": 0, "metrics": metrics})
    return {"total_samples": len(rows), "completed_samples": len(rows), "scores": scores}


def _sample(row: Response, origin: Origin) -> dict[str, Any]:
    asked = prompt_messages(row.prompt, origin.system, row.history)
    content = [{"type": "reasoning", "reasoning": row.thought}] if row.thought else []
    answer = {"role": "assistant", "content": [*content, {"type": "text", "text": row.answer}], "source": "generate"}
    stop = "stop" if row.finished else "max_tokens"
    usage = {"input_tokens": 0, "output_tokens": row.timings.tokens, "total_tokens": row.timings.tokens}
    return {
        "id": row.prompt_id, "epoch": row.sample + 1, "input": asked, "target": row.expected, "messages": [*asked, answer],
        "output": {"model": row.voice, "choices": [{"message": answer, "stop_reason": stop}], "usage": usage,
                   "time": row.timings.seconds / row.timings.replies},
        "scores": {name: {"value": "C" if test(row) else "I", "answer": row.behaviour,
                          "explanation": f"wanted {row.expected}, found {row.behaviour}",
                          "metadata": {"markers": row.markers}} for name, test in SCORES.items()},
        "metadata": {"kind": row.kind, "pair": row.pair, "split": row.split, "domain": row.domain},
        "model_usage": {row.voice: usage},
    }  # fmt: skip
