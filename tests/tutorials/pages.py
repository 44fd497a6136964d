"""A page of the documentation as a program: its shell and Python blocks, run in order in this process.

A block below ``<!-- not run: reason -->`` is left out. Programs of the environment run by their modules, so that they
need not be installed, and are loaded once for all pages.
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["PROGRAMS", "Block", "blocks_of", "run_block", "run_line"]

PROGRAMS = ("bev-train", "bev-eval", "bev-vis", "bev-deploy", "bev-bench", "bev-doctor")
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.*?) -->\n+)?^```(?P<language>sh|python)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int  # where its code begins, counted from 1
    language: str  # sh or python
    code: str
    not_run: str | None  # why not

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The shell and Python blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, found.start("code")) + 1, found["language"], found["code"], found["reason"])
        for found in _BLOCK.finditer(text)
    ]


def run_block(block: Block, names: dict[str, Any]) -> None:
    """Run a block in the current folder; Python blocks of a page share ``names``.

    Raises:
        RuntimeError: a command with another exit status than 0.
    """
    if block.language == "python":
        code = "\n" * (block.line - 1) + block.code  # so that tracebacks name the line of the page
        exec(compile(code, str(block.page), "exec"), names)
        return
    for line in block.code.replace("\\\n", " ").splitlines():
        if status := run_line(line):
            raise RuntimeError(f"{block.place}: exit status {status} of: {line}")


def run_line(line: str) -> int:
    """Exit status of ``python FILE …``, ``python -m MODULE …`` or a program of ours; 0 for an empty line."""
    words = shlex.split(line, comments=True)
    if not words:
        return 0
    with pytest.MonkeyPatch.context() as patch:
        start, arguments = _start(words)
        patch.setattr(sys, "argv", arguments)
        try:
            start(run_name="__main__")
        except SystemExit as end:
            return _status(end.code)
    return 0


def _start(words: list[str]) -> tuple[Callable[..., Mapping[str, Any]], list[str]]:
    match words:
        case ["python", "-m", module, *_]:
            return lambda **how: runpy.run_module(module, alter_sys=True, **how), words[2:]
        case ["python", script, *_]:
            return lambda **how: runpy.run_path(script, **how), words[1:]
        case [program, *_] if program in PROGRAMS:
            return lambda **how: runpy.run_module(program.replace("-", "_"), alter_sys=True, **how), words
    raise ValueError(f"a page may run python and {', '.join(PROGRAMS)}, got: {shlex.join(words)}")


def _status(code: object) -> int:
    return code if isinstance(code, int) else 0 if code is None else 1
