"""What the documentation site holds beside the pages of docs/: README files, the reference, and what commands answer.

A hook of mkdocs (see mkdocs.yml). `hatch run docs` builds the site into runs/site; a warning is an error.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ops", "backbones", "lss", "temporal", "heads", "nuscenes", "zoo", "deploy")
APPS = ("train", "eval", "bench", "vis")
COMMANDS = {
    "bev-train": ("bev_train", ()),
    "bev-eval": ("bev_eval", ("predict",)),
    "bev-bench": (
        "bev_bench",
        ("latency", "sequential", "view-transform", "ops", "flops", "data", "train", "trt", "compare"),
    ),
    "bev-vis": ("bev_vis", ("render", "report", "curves", "view", "export")),
    "bev-deploy": ("bev_deploy", ("export", "quantize", "build", "show", "check")),
    "bev-doctor": ("bev_doctor", ()),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    pages = {
        "index.md": lambda: (ROOT / "README.md").read_text(),
        **{f"packages/bev-{name}.md": _readme(f"packages/bev-{name}") for name in PACKAGES},
        **{f"packages/bev-{name}.md": _readme(f"apps/{name}") for name in APPS},
        **{f"reference/bev_{name}.md": _reference(f"bev_{name}") for name in PACKAGES},
        "reference/commands.md": lambda: "\n".join(_commands()),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Relative links of the repository as links of the site; what the site does not hold stays as text."""
    source, here = _in_repository(page.file.src_uri), Path(page.file.src_uri).parent

    def on_this_site(link: re.Match[str]) -> str:
        bang, text, target = link.groups()
        path, _, anchor = target.partition("#")
        if not path or ":" in path:
            return link.group()
        wanted = _on_site(Path(os.path.normpath(source.parent / path)))
        if wanted is None:
            return link.group() if bang else text
        return f"{bang}[{text}]({os.path.relpath(wanted, here)}{'#' + anchor if anchor else ''})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", on_this_site, markdown)


def _readme(folder: str) -> Callable[[], str]:
    return lambda: (ROOT / folder / "README.md").read_text()


def _reference(package: str) -> Callable[[], str]:
    return lambda: f"# {package}\n\n::: {package}\n"


def _commands() -> Iterator[str]:
    yield "# Commands\n\nWhat every command answers to `--help`.\n"
    for program, (module, subcommands) in COMMANDS.items():
        yield f"## {program}\n\n```text\n{_help(program, module)}\n```\n"
        for subcommand in subcommands:
            yield f"### {program} {subcommand}\n\n```text\n{_help(program, module, subcommand)}\n```\n"


def _help(program: str, module: str, *subcommand: str) -> str:
    main = importlib.import_module(f"{module}.__main__").main
    printed = io.StringIO()
    arguments = mock.patch.object(sys, "argv", [program, *subcommand, "--help"])
    plain = mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"})
    with arguments, plain, contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main()
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue()).strip()


def _in_repository(page: str) -> Path:
    """Where the text of a page of the site stands, relative to the root."""
    name = Path(page).stem.removeprefix("bev-")
    if page == "index.md":
        return Path("README.md")
    if page.startswith("packages/"):
        return Path("apps" if name in APPS else "packages") / (name if name in APPS else f"bev-{name}") / "README.md"
    return Path("docs") / page


def _on_site(path: Path) -> Path | None:
    """Where the site holds a file or folder of the repository."""
    parts = path.parts
    if parts[:1] == ("docs",) and (ROOT / path).exists():
        return Path(*parts[1:])
    if parts[:1] in (("packages",), ("apps",)) and len(parts) >= 2 and parts[2:] in ((), ("README.md",)):
        return Path("packages") / f"bev-{parts[1].removeprefix('bev-')}.md"
    return Path("index.md") if path == Path("README.md") else None
