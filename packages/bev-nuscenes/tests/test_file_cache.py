"""Copies of remote files: never more than allowed, never a wrong byte, in any number of processes."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from bev_nuscenes import FileCache
from bev_nuscenes.unfinished import claim


def content(number: int) -> bytes:
    return bytes([number % 256]) * 1000


def used_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("??/*"))


def test_a_copy_is_what_was_put(tmp_path):
    cache = FileCache(tmp_path, 100_000)
    assert cache.get("s3://b/1") is None
    cache.put("s3://b/1", content(1))
    assert cache.get("s3://b/1") == content(1) and cache.get("s3://b/2") is None


def test_the_oldest_copies_make_room(tmp_path):
    cache = FileCache(tmp_path, 10_000)
    for number in range(9):
        cache.put(f"s3://b/{number}", content(number))
        os.utime(cache._path(f"s3://b/{number}"), (number, number))
    assert cache.get("s3://b/0") == content(0)  # used now, so no longer the oldest
    cache.put("s3://b/9", content(9))
    assert used_bytes(tmp_path) <= 9_000
    kept = [number for number in range(10) if cache.get(f"s3://b/{number}") is not None]
    assert kept == [0, 3, 4, 5, 6, 7, 8, 9]


def test_what_takes_more_than_a_quarter_is_not_kept(tmp_path):
    cache = FileCache(tmp_path, 3_999)
    cache.put("s3://b/1", content(1))
    assert cache.get("s3://b/1") is None


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:40] + b"x" + data[41:]]
)
def test_a_damaged_copy_is_thrown_away(tmp_path, damage):
    cache = FileCache(tmp_path, 100_000)
    cache.put("s3://b/1", content(1))
    path = cache._path("s3://b/1")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"the copy of s3://b/1 in .* is damaged"):
        assert cache.get("s3://b/1") is None
    assert not path.exists()


def test_copies_of_other_users_are_used(tmp_path, monkeypatch):
    cache = FileCache(tmp_path, 100_000)
    cache.put("s3://b/1", content(1))

    def refuse(*_) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert cache.get("s3://b/1") == content(1)


@pytest.mark.parametrize("text", ["", "\0\0", "12x"])
def test_a_damaged_count_is_counted_again(tmp_path, text):
    cache = FileCache(tmp_path, 100_000)
    cache.put("s3://b/1", content(1))
    (tmp_path / "bytes").write_text(text)
    cache.put("s3://b/2", content(2))
    assert int((tmp_path / "bytes").read_text()) == used_bytes(tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    cache = FileCache(tmp_path / "file", 100_000)
    with pytest.warns(UserWarning, match=r"no copy of s3://b/1 is kept in .*file: Not a directory"):
        cache.put("s3://b/1", content(1))


@pytest.mark.skipif(sys.platform == "win32", reason="knows files in use in another way")
def test_what_killed_processes_left_goes_when_room_is_made(tmp_path):
    cache = FileCache(tmp_path, 10_000)
    for number in range(9):
        cache.put(f"s3://b/{number}", content(number))
    left, young, claimed = (cache._path("s3://b/0").with_name(f"{name}.part") for name in ("left", "young", "claimed"))
    for path in (left, young, claimed):
        path.write_bytes(b"half")
    for path in (left, claimed):
        os.utime(path, (0, 0))
    with claimed.open("rb") as file:
        claim(file)
        cache.put("s3://b/9", content(9))
    assert not left.exists() and young.exists() and claimed.exists()
    assert cache.get("s3://b/9") == content(9)


def _fill(folder: Path, first: int) -> None:
    cache = FileCache(folder, 20_000)
    for number in range(first, first + 60):
        cache.put(f"s3://b/{number % 50}", content(number % 50))
        assert cache.get(f"s3://b/{number % 50}") in (None, content(number % 50))


def test_processes_share_the_bound(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fill, args=(tmp_path, 17 * n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert 0 < used_bytes(tmp_path) <= 20_000
    assert not list(tmp_path.glob("??/*.part"))
