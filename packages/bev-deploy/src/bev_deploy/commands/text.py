"""Tables and sizes as text."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["as_table", "size_text"]

_UNIT = 1024


def as_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width under a ruled head."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


def size_text(size: int) -> str:
    """Of a file of so many bytes."""
    if size < _UNIT**2:
        return f"{size / _UNIT:.1f} KiB"
    return f"{size / _UNIT**2:.1f} MiB" if size < _UNIT**3 else f"{size / _UNIT**3:.2f} GiB"
