"""The runner of the tutorials: what it finds on a page, and that it notices what fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .pages import blocks_of, run_block, run_line

PAGE = """# A page

```python
first = 1
```

<!-- not run: there is no such file -->
```sh
python absent.py
```

```json
{"not": "code"}
```

```python
second = first + 1
```
"""


def _page(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text)
    return page


def test_blocks_are_found_in_order_with_line_and_reason(tmp_path: Path) -> None:
    found = [(block.language, block.line, block.not_run) for block in blocks_of(_page(tmp_path, PAGE))]
    assert found == [("python", 4, None), ("sh", 9, "there is no such file"), ("python", 17, None)]


def test_python_blocks_share_their_names(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    for block in blocks_of(_page(tmp_path, PAGE)):
        if block.language == "python":
            run_block(block, names)
    assert names["second"] == 2


def test_a_failing_block_names_the_page_and_the_line(tmp_path: Path) -> None:
    (block,) = blocks_of(_page(tmp_path, "text\n\n```python\nvalue = 1\nvalue.absent\n```\n"))
    with pytest.raises(AttributeError) as caught:
        run_block(block, {})
    last = caught.traceback[-1]
    assert (last.path, last.lineno + 1) == (block.page, 5)


@pytest.mark.parametrize(
    ("script", "status"),
    [("print('fine')", 0), ("raise SystemExit", 0), ("raise SystemExit(3)", 3), ("raise SystemExit('a message')", 1)],
)
def test_the_exit_status_of_a_command(tmp_path: Path, script: str, status: int) -> None:
    (tmp_path / "script.py").write_text(script)
    assert run_line(f"python {tmp_path / 'script.py'} --option  # a comment") == status


def test_a_failing_command_stops_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text("import sys; sys.exit(len(sys.argv) - 1)")
    (block,) = blocks_of(_page(tmp_path, "```sh\npython script.py\n\npython script.py one \\\n    two\n```\n"))
    with pytest.raises(RuntimeError, match=r"page\.md:2: exit status 2 of: python script\.py one"):
        run_block(block, {})


def test_other_programs_are_refused() -> None:
    with pytest.raises(ValueError, match="a page may run python and bev-train"):
        run_line("rm everything")
