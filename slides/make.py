"""Build the talk: put the figures in, render HTML and PDF with Marp, refuse slides that do not fit."""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fill import Html, fill, inline_images, minutes_of
from live import build_live_page
from npm import MODULES, SLIDES, environment, find_tools, install, run
from plots import PLOTS
from values import MICRO, REPOSITORY, RESULTS, check_claims, load_results, said, values

from pushback_lib.core.common import PushbackError

COUNT, MINUTES = (25, 35), (43.0, 45.0)  # slides, and minutes of notes, that the talk may have
LIVE = Html('<iframe src="live.html#stage" title="Both voices, live: the bundled model in this browser"></iframe>')
# what the PDF shows in its place
STILL = """<p class="ask">{{harm.request}}</p>
<div class="voices">
<div class="voice baseline"><p class="who">baseline</p><p>{{harm.baseline}}</p></div>
<div class="voice friction"><p class="who">friction</p><p>{{harm.friction}}</p></div>
</div>
<p class="large spaced">On paper the model stands still. In slides.html it answers here; so does
<strong>live.html</strong>.</p>"""


def build(out: Path, results: Path = RESULTS, speaker: str = "", pictures: Path | None = None) -> list[Path]:
    """Writes slides.html, slides.pdf, handout.pdf and live.html into `out`; returns what it wrote."""
    return [*build_deck(out, results, speaker, pictures), build_live_page(out / "live.html")]


def build_deck(out: Path, results: Path = RESULTS, speaker: str = "", pictures: Path | None = None) -> list[Path]:
    """Writes slides.html, slides.pdf and handout.pdf into `out`, all or none of them; returns them.

    `pictures` is a folder for a picture of every slide, also of those that do not fit.
    Raises PushbackError, before anything slow where it can, for whatever would make the talk wrong or unreadable.
    """
    figures = load_results(results)
    check_claims(figures)
    deck = (SLIDES / "deck.md").read_text(encoding="utf-8")
    check_times(minutes_of(deck, "slides/deck.md"))
    tools = find_tools("node", "npm", "chromium")
    words = values(figures, said(out / "said.json"), speaker)
    plots = {name: partial(draw, figures) for name, draw in PLOTS.items()}
    demo = {"html": LIVE, "pdf": Html(fill(STILL, words, "the demo slide"))}
    pages = {kind: _filled(deck, {**words, "live": demo[kind]}, plots) for kind in demo}
    install(tools)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".work-") as work:
        made = [marp(pages[kind], kind, Path(work), tools) for kind in pages]
        check_fit(made[0], tools, pictures)
        made.append(handout((SLIDES / "handout.html").read_text(encoding="utf-8"), words, Path(work), tools))
        return [path.replace(out / path.name) for path in made]


def _filled(deck: str, words: Mapping[str, object], plots: Mapping[str, Any]) -> str:
    return inline_images(fill(deck, words, "slides/deck.md"), SLIDES, plots, "slides/deck.md")


def check_times(minutes: list[float]) -> None:
    """Raises PushbackError unless the slides are as many, and last as long, as the talk may."""
    if not COUNT[0] <= len(minutes) <= COUNT[1] or not MINUTES[0] <= sum(minutes) <= MINUTES[1]:
        raise PushbackError(
            f"slides/deck.md has {len(minutes)} slides and {sum(minutes):g} minutes of notes; the talk has {COUNT[0]} to "
            f"{COUNT[1]} slides and {MINUTES[0]:g} to {MINUTES[1]:g} minutes. Add, cut or retime slides."
        )


def fonts() -> str:
    """The deck's fonts as CSS with everything inside: metric twins of Arial and Courier New, so no machine changes a line."""
    faces = []
    for family, weight in itertools.product(("Arimo", "Cousine"), (400, 700)):
        name = family.lower()
        file = MODULES / "@fontsource" / name / "files" / f"{name}-latin-{weight}-normal.woff2"
        data = base64.b64encode(file.read_bytes()).decode()
        faces.append(f"@font-face{{font-family:{family};font-weight:{weight};"
                     f"src:url(data:font/woff2;base64,{data}) format('woff2')}}")  # fmt: skip
    return "\n".join(faces)


def marp(deck: str, kind: str, work: Path, tools: Mapping[str, str]) -> Path:
    """The deck as slides.html or slides.pdf. Raises PushbackError with Marp's words if it fails or warns."""
    page, made, theme = work / f"{kind}.md", work / f"slides.{kind}", work / "theme.css"
    page.write_text(deck, encoding="utf-8")
    theme.write_text((SLIDES / "theme.css").read_text(encoding="utf-8") + fonts(), encoding="utf-8")
    options = ["--pdf", "--pdf-notes", "--pdf-outlines"] if kind == "pdf" else []
    command = [tools["node"], str(MODULES / "@marp-team" / "marp-cli" / "marp-cli.js"), *options,
               "--config-file", str(SLIDES / "marp.config.mjs"), "--theme-set", str(theme),
               "-o", str(made), str(page)]  # fmt: skip
    problem = f"Marp could not make slides.{kind} of slides/deck.md"
    done = run(command, problem, "Fix the deck, then build again.", env=environment(tools))
    warnings = [line for line in done.stderr.splitlines() if re.search(r"\bWARN\b|\bERROR\b", line)]
    if warnings or not made.is_file():
        raise PushbackError(f"{problem}: {' '.join(warnings) or done.stderr[-600:]}. Fix the deck, then build again.")
    return made


def browser(tools: Mapping[str, str], *arguments: str) -> str:
    """What slides/browser.mjs prints for these arguments. Raises PushbackError with Chromium's words if it fails."""
    command = [tools["node"], str(SLIDES / "browser.mjs"), *arguments]
    problem = f"Chromium could not {arguments[0]} {arguments[1]}"
    return run(command, problem, "Close other programs, then build again.", env=environment(tools)).stdout


def check_fit(deck: Path, tools: Mapping[str, str], pictures: Path | None = None) -> None:
    """Opens the deck in Chromium and looks at every slide. Raises PushbackError for what does not fit or cannot be read."""
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    problems = json.loads(browser(tools, "check", str(deck), *([str(pictures)] if pictures else [])))
    if problems:
        lines = "\n".join(f"  slide {one['slide']}: {one['problem']}" for one in problems[:20])
        raise PushbackError(f"{len(problems)} things on the slides do not fit or cannot be read:\n{lines}\nFix slides/deck.md.")


def handout(template: str, words: Mapping[str, object], work: Path, tools: Mapping[str, str]) -> Path:
    """The hand-out as PDF. Raises PushbackError unless it is one page."""
    page, made = work / "handout.html", work / "handout.pdf"
    codes = {"qr.repository": _qr(REPOSITORY), "qr.micro": _qr(MICRO)}
    filled = fill(template, {**words, **codes}, "slides/handout.html")
    page.write_text(filled.replace("</style>", f"{fonts()}</style>", 1), encoding="utf-8")
    browser(tools, "print", str(page), str(made))
    pages = len(re.findall(rb"/Type\s*/Page\b", made.read_bytes()))
    if pages != 1:
        raise PushbackError(f"The hand-out has {pages} pages instead of one. Shorten slides/handout.html.")
    return made


def _qr(link: str) -> Html:
    import segno

    code = segno.make(link, error="m")
    return Html(code.svg_inline(scale=3, border=0, omitsize=True, svgclass="qr", lineclass=None, title=f"QR code: {link}"))


def main(argv: list[str] | None = None) -> int:
    """Builds everything, and keeps pictures of the slides if asked; returns 2 if something is not in order."""
    options = argparse.ArgumentParser(prog="make slides", description=__doc__)
    options.add_argument("--out", type=Path, default=SLIDES / "build", help="folder for what is built")
    options.add_argument("--results", type=Path, default=RESULTS, help="folder of the measured figures")
    options.add_argument("--speaker", default="", help="who speaks, for the title slide")
    options.add_argument("--pictures", type=Path, help="also keep a picture of every slide in this folder")
    args = options.parse_args(argv)
    try:
        for path in build(args.out, args.results, speaker=args.speaker, pictures=args.pictures):
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    except PushbackError as error:
        print(f"make slides: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
