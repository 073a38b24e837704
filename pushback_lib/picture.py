"""A picture with alternative text, for pages and notebooks; knows nothing about what it shows.

JupyterLab shows an image output without any alternative text, so in a notebook the picture is HTML that has one.
"""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Picture:
    """A PNG file and what it shows, in words; as the last line of a cell it is displayed."""

    png: bytes
    alt: str

    def __repr__(self) -> str:
        return f"Picture: {self.alt}"

    @property
    def html(self) -> str:
        """An `<img>` that holds the picture and its alternative text."""
        code = base64.b64encode(self.png).decode()
        return f'<img src="data:image/png;base64,{code}" alt="{html.escape(self.alt)}" style="max-width:100%">'

    def _repr_html_(self) -> str:
        return self.html

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return self.png, {"alt": self.alt}  # where nbconvert looks for it


def picture(source: Figure | str | Path, alt: str, dpi: int = 110) -> Picture:
    """A figure, or a PNG file, with its alternative text. Raises FileNotFoundError where there is no such file."""
    if isinstance(source, str | Path):
        return Picture(Path(source).read_bytes(), alt)
    buffer = io.BytesIO()
    source.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return Picture(buffer.getvalue(), alt)
