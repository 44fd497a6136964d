"""Every option of every command that the documentation shows exists."""

from __future__ import annotations

import importlib
import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/*/*.md"), *ROOT.glob("*/*/README.md")])
PROGRAMS = {
    "bev-train": "bev_train.__main__",
    "bev-eval": "bev_eval.__main__",
    "bev-bench": "bev_bench.__main__",
    "bev-vis": "bev_vis.__main__",
    "bev-deploy": "bev_deploy.__main__",
    "bev-doctor": "bev_doctor.__main__",
}
BESIDE_OPTIONS = {"bev-eval": {"predict"}}  # subcommands of programs that also run without one
COMMAND = re.compile(r"(?:python -m )?\b(bev[-_](?:train|eval|bench|vis|deploy|doctor)) +([^`\n|]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9.-]*")


def commands(page: Path) -> list[tuple[str, str]]:
    """Program and arguments of every command line on a page, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", page.read_text())
    found = []
    for line in text.splitlines():
        for program, arguments in COMMAND.findall(line):
            if "--" in arguments:  # prose that only names a program has none
                found.append((program.replace("_", "-"), re.split(r" #|;|&&| > ", arguments)[0]))
    return found


@cache
def options_of(program: str, command: str) -> frozenset[str]:
    """What ``--help`` lists, for a subcommand if the word after the program is one."""
    text = _help(program, [])
    subcommands = re.search(r"\{([\w,-]+)\}", text.split("\n\n")[0].replace("\n", ""))
    names = set(subcommands.group(1).split(",")) if subcommands else BESIDE_OPTIONS.get(program, set())
    if command in names:
        text = _help(program, [command])
    return frozenset(OPTION.findall(text))


def _help(program: str, arguments: list[str]) -> str:
    main = importlib.import_module(PROGRAMS[program]).main
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr(sys, "argv", [program, *arguments, "--help"])
        patch.setattr(sys.stdout, "write", lambda text: printed.append(text))
        patch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit):
            main()
    return re.sub(r"\x1b\[[0-9;]*m", "", "".join(printed))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_exist(page: Path) -> None:
    for program, arguments in commands(page):
        known = options_of(program, arguments.split()[0])
        unknown = [option for option in OPTION.findall(arguments) if option not in known]
        assert not unknown, f"{page.name} shows `{program} {arguments}`, which has no {', '.join(unknown)}"


def test_commands_are_found_at_all() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 30
