"""Put values, plots and images into the slides' text."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from pushback_lib.core.common import PushbackError

_NAME = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_IMAGE = re.compile(r"!\[(?:w:(\d+) )?([^\]]*)\]\(([^)\s]*)\)")
_MINUTES = re.compile(r"<!--\s*(\d+(?:\.\d+)?) min\b")
_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


class Html(str):
    """Markup made by the kit, to be inserted as it is; what it was made from has been through `as_text`."""


def as_text(value: object) -> str:
    """`value` so that neither Markdown nor HTML sees anything but text: all but letters, digits and spaces as entities."""
    return re.sub(r"[^\w ]|_", lambda found: f"&#{ord(found[0])};", str(value))


def _in_note(value: object) -> str:
    """`value` for a speaker note, which is a comment: shown unchanged, but unable to end the comment."""
    return re.sub(r"--+", "–", str(value)).replace("<", "‹").replace(">", "›")


def _line(page: str, at: int) -> int:
    return page.count("\n", 0, at) + 1


def fill(page: str, values: Mapping[str, object], where: str) -> str:
    """The page with every placeholder replaced, once. Raises PushbackError, with the line, for a name there is no value for."""
    comments = [found.span() for found in _COMMENT.finditer(page)]

    def value_of(found: re.Match[str]) -> str:
        name, at = found[1], found.start()
        if name not in values:
            raise PushbackError(
                f"{where}, line {_line(page, at)}: no value called {name!r}. Fix the name, or add it to "
                f"slides/values.py; there are: {', '.join(sorted(values))}."
            )
        value = values[name]
        if any(start <= at < end for start, end in comments):
            return _in_note(value)
        return value if isinstance(value, Html) else as_text(value)

    return _NAME.sub(value_of, page)


def inline_images(page: str, folder: Path, plots: Mapping[str, Callable[[], str]], where: str) -> str:
    """The page with every `![w:WIDTH alternative text](source)` as a picture inside it, WIDTH in pixels or left out.

    `plot:NAME` is drawn by `plots`, anything else is a file in `folder`. Written as HTML, since Markdown takes no SVG inline.
    Raises PushbackError, with the line, for an image that is missing, unknown or without alternative text.
    """

    def image(found: re.Match[str]) -> str:
        width, alt, source = found.groups()
        place = f"{where}, line {_line(page, found.start())}"
        if not alt.strip():
            raise PushbackError(f"{place}: the image {source} has no alternative text. Say what it shows between [ and ].")
        size = f' width="{width}"' if width else ""
        alt = alt.strip().replace('"', "&quot;").replace("<", "&lt;")
        return f'<p class="picture"><img alt="{alt}"{size} src="{_data_uri(source, folder, plots, place)}"></p>'

    return _IMAGE.sub(image, page)


def _data_uri(source: str, folder: Path, plots: Mapping[str, Callable[[], str]], place: str) -> str:
    if source.startswith("plot:"):
        if source[5:] not in plots:
            raise PushbackError(f"{place}: no plot called {source[5:]!r}. There are: {', '.join(sorted(plots))}.")
        return svg_uri(plots[source[5:]]())
    path = folder / source
    if path.suffix not in _TYPES or not path.is_file():
        raise PushbackError(f"{place}: no image at {path}. Put an SVG or PNG there, or fix the path.")
    return f"data:{_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def svg_uri(svg: str) -> str:
    """An SVG picture as a data URI."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def slides_of(deck: str) -> list[str]:
    """The slides of a Markdown deck, without its front matter."""
    return re.split(r"\n---\n", deck.split("\n---\n", 1)[1])


def minutes_of(deck: str, where: str) -> list[float]:
    """Each slide's minutes, with which its notes begin. Raises PushbackError for a slide whose notes do not say."""
    minutes = []
    for number, slide in enumerate(slides_of(deck), 1):
        found = _MINUTES.search(slide)
        if not found:
            raise PushbackError(f"{where}, slide {number}: no timed notes. Begin its notes with the minutes: <!-- 1.5 min …")
        minutes.append(float(found[1]))
    return minutes
