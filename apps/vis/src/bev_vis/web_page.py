"""One HTML page that needs nothing else: style, charts and pictures are in the file."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #20242a; max-width: 1240px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #d5d9df; }
p.note { color: #5a626d; max-width: 60em; } .figures span { display: inline-block; margin-right: 2em; }
.figures b { font-size: 1.5em; display: block; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 12px; text-align: right; border-bottom: 1px solid #eceef1; }
th:first-child, td:first-child { text-align: left; } svg, img { max-width: 100%; height: auto; }
figure { margin: 1em 0; } figcaption { color: #5a626d; }
@media (prefers-color-scheme: dark) { svg, img { background: #fff; } body { background: #16181c; color: #e4e7eb; }
h2, th, td { border-color: #3a3f47; } p.note, figcaption { color: #a4acb8; } }
"""


class WebPage:
    """Grows from top to bottom; everything that is given as text is escaped."""

    def __init__(self, title: str) -> None:
        self._title = html.escape(title)
        self._parts = [f"<h1>{self._title}</h1>"]

    def section(self, title: str, note: str = "") -> None:
        self._parts.append(f"<h2>{html.escape(title)}</h2>")
        if note:
            self._parts.append(f'<p class="note">{html.escape(note)}</p>')

    def figures(self, values: dict[str, str]) -> None:
        """The few numbers that matter most, in large type."""
        spans = (f"<span><b>{html.escape(value)}</b>{html.escape(name)}</span>" for name, value in values.items())
        self._parts.append(f'<p class="figures">{"".join(spans)}</p>')

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        lines = (_row("td", row) for row in rows)
        self._parts.append(f"<table><thead>{_row('th', head)}</thead><tbody>{''.join(lines)}</tbody></table>")

    def chart(self, svg: str) -> None:
        self._parts.append(f"<figure>{svg}</figure>")

    def picture(self, pixels: NDArray[np.uint8], caption: str, width: int = 1500) -> None:
        """A picture (H,W,3), scaled down to ``width`` pixels, as a JPEG."""
        image = Image.fromarray(pixels)
        image.thumbnail((width, width), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=82, optimize=True)
        data, text = base64.b64encode(buffer.getvalue()).decode(), html.escape(caption)
        self._parts.append(
            f'<figure><img alt="{text}" src="data:image/jpeg;base64,{data}"><figcaption>{text}</figcaption></figure>'
        )

    def text(self) -> str:
        """The page."""
        head = f'<meta charset="utf-8"><title>{self._title}</title><style>{_STYLE}</style>'
        body = "\n".join(self._parts)
        return f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where there is nothing to measure."""
    return "-" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def _row(cell: str, values: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{cell}>{html.escape(value)}</{cell}>' for value in values)}</tr>"
