"""Examine every chat template that TRL carries, each with TRL's training variant where there is one; write the table.

    .venv/bin/python notebooks/guide/templates.py

The page is `templates.md` beside this script; it says of which version of TRL it was made.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pushback_lib.core.files import replacing
from pushback_lib.core.show import markdown_table
from pushback_lib.model.doctor import CHAT, SHIPPING, TRAINING, Report, Templates, examine_templates

PAGE = Path(__file__).with_suffix(".md")
FOLDER = Path(find_spec("trl").origin).parent / "chat_templates"
SUFFIX = "_training"
START = "<!-- table -->\n"


def reports() -> list[tuple[Report, bool]]:
    """The report on each template, and whether TRL has a variant of it for training."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja"))}
    found = []
    for name, text in texts.items():
        if not name.endswith(SUFFIX):
            variant = texts.get(name + SUFFIX)
            found.append((Report(name, examine_templates(Templates(text, variant or text, text))), variant is not None))
    return found


def row(report: Report, variant: bool) -> tuple[str, ...]:
    """A line of the table: verdicts, then what spoils them."""
    verdicts = ("yes" if report.fit(purpose) else "no" for purpose in (TRAINING, CHAT, SHIPPING))
    faults = "; ".join(f"{one.what}: {one.found}" for one in report.findings if one.spoils)
    return f"`{report.name}`", "yes" if variant else "no", *verdicts, faults or "—"


def page() -> str:
    """The page's text with the table made anew."""
    head = PAGE.read_text(encoding="utf-8").partition(START)[0]
    header = ("template", "training variant", *(TRAINING, CHAT, SHIPPING), "what was found")
    table = markdown_table(header, [row(*found) for found in reports()])
    return f"{head}{START}Of TRL {version('trl')}:\n\n{table}\n"


if __name__ == "__main__":
    text = page()
    with replacing(PAGE) as part:
        part.write_text(text, encoding="utf-8")
    print(PAGE)
