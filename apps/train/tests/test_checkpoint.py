"""Checkpoint files: whole or absent, the one before kept, damage noticed, a full disk survived."""

from __future__ import annotations

import errno
import io
import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from bev_train import checkpoint as module
from bev_train.checkpoint import CheckpointError, is_intact, newest_intact, previous_of, saving, write_checkpoint


@pytest.fixture
def last(tmp_path: Path) -> Path:
    """The last checkpoint of a run that saved at steps 1 and 2."""
    path = tmp_path / "last.ckpt"
    for step in (1, 2):
        write_checkpoint({"global_step": step, "weights": torch.arange(1000.0) * step}, path)
    return path


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _cut_last_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = (_truncate, _cut_last_byte, _flip_a_bit, _empty)


def test_torch_reads_it_and_the_checksum_is_the_comment_of_the_archive(last: Path) -> None:
    assert torch.load(last, weights_only=True)["global_step"] == 2
    assert torch.load(last, weights_only=True, mmap=True)["weights"][3] == 6
    assert zipfile.ZipFile(last).comment.startswith(b"bevkit sha256 ")
    assert is_intact(last)


def test_the_last_two_are_kept(last: Path) -> None:
    assert torch.load(previous_of(last), weights_only=True)["global_step"] == 1
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_falls_back_to_the_one_before_and_says_what_is_lost(last: Path, damage) -> None:
    damage(last)
    told: list[str] = []
    found = newest_intact(last, tell=told.append)
    assert (found.path, found.step) == (previous_of(last), 1)
    (text,) = told
    assert all(part in text for part in (str(last), "damaged", str(previous_of(last)), "step 1", "lost"))


def test_a_process_killed_between_two_renames_loses_nothing_but_the_last(last: Path) -> None:
    last.rename(previous_of(last))
    told: list[str] = []
    assert newest_intact(last, tell=told.append).step == 2
    assert "is missing" in told[0]


@pytest.mark.parametrize("damage", DAMAGES)
def test_both_damaged_is_one_error(last: Path, damage) -> None:
    damage(last)
    damage(previous_of(last))
    with pytest.raises(CheckpointError, match=r"last\.ckpt and .*previous\.ckpt: not a readable checkpoint"):
        newest_intact(last)


def test_none_at_all(tmp_path: Path) -> None:
    assert newest_intact(tmp_path / "last.ckpt") is None


class _FullDisk(io.FileIO):
    """A file on a disk that is full after some bytes."""

    def write(self, data) -> int:
        if self.tell() + len(data) > 2000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def _fail(number: int):
    def opened(self, *_, **__):
        raise OSError(number, os.strerror(number), str(self))

    return opened


@pytest.mark.parametrize(
    ("opened", "reason"),
    [
        (lambda self, mode: _FullDisk(self, mode), "No space left on device"),
        (_fail(errno.EROFS), "Read-only file system"),
        (_fail(errno.EACCES), "Permission denied"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_both_stay(last: Path, monkeypatch, opened, reason: str) -> None:
    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(OSError, match=rf"last\.ckpt could not be written \({reason}\): make room") as raised:
        write_checkpoint({"global_step": 3, "weights": torch.zeros(5000)}, last)
    monkeypatch.undo()
    assert "\n" not in str(raised.value)
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert newest_intact(last).step == 2
    assert is_intact(previous_of(last))


def test_errors_of_safetensors_are_told_the_same_way(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"model\.safetensors could not be written \(No space left on device\)"),
        saving(tmp_path / "model.safetensors"),
    ):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_weights_that_cannot_be_written_leave_nothing_behind(tiny_options, tiny_run, monkeypatch) -> None:
    def disk_full(tensors, file: Path, metadata) -> None:
        file.write_bytes(b"x" * 100)
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("bev_zoo.checkpoint.save_file", disk_full)
    with pytest.raises(OSError, match=r"model\.safetensors could not be written \(No space left on device\)"):
        tiny_run(tiny_options(max_steps=1))
    assert not list(tiny_options().folder.rglob("model.safetensors*"))


def test_the_file_and_its_folder_are_synced_before_and_after_the_rename(last: Path, monkeypatch) -> None:
    events: list[tuple[str, str]] = []
    rename = Path.replace
    monkeypatch.setattr(module, "_sync", lambda path: events.append(("sync", path.name)))
    monkeypatch.setattr(
        Path, "replace", lambda path, to: (events.append((path.name, Path(to).name)), rename(path, to))[1]
    )
    write_checkpoint({"global_step": 3}, last)
    assert events[0] == ("sync", "last.ckpt.partial")
    assert events.index(("last.ckpt", "previous.ckpt")) < events.index(("last.ckpt.partial", "last.ckpt"))
    assert events[-1] == ("sync", last.parent.name)


class TestRun:
    def test_resumes_from_the_one_before(self, tiny_options, tiny_run, tmp_path) -> None:
        whole = tiny_run(tiny_options(out=tmp_path / "whole"))
        folder = tiny_run(tiny_options(max_steps=12, checkpoint_every_steps=4)).folder
        _truncate(folder.checkpoint)
        with pytest.warns(UserWarning, match=r"last\.ckpt is damaged: going on from .*previous\.ckpt at step 10"):
            resumed = tiny_run(tiny_options(resume=True, checkpoint_every_steps=4))
        assert resumed.step == whole.step
        one, two = (torch.load(run.folder.checkpoint, weights_only=True) for run in (whole, resumed))
        torch.testing.assert_close(one["state_dict"], two["state_dict"], rtol=0, atol=0)
        assert is_intact(folder.previous)

    def test_the_first_save_after_that_keeps_the_intact_one(self, tiny_options, tiny_run) -> None:
        folder = tiny_run(tiny_options(max_steps=7, checkpoint_every_steps=3)).folder
        kept = torch.load(folder.previous, weights_only=True)["global_step"]
        _truncate(folder.checkpoint)
        with pytest.warns(UserWarning, match="damaged"):
            tiny_run(tiny_options(resume=True, max_steps=7, checkpoint_every_steps=100))
        assert torch.load(folder.previous, weights_only=True)["global_step"] == kept == 6
        assert torch.load(folder.checkpoint, weights_only=True)["global_step"] == 7

    def test_both_damaged(self, tiny_options, tiny_run) -> None:
        folder = tiny_run(tiny_options(max_steps=7)).folder
        _truncate(folder.checkpoint)
        _truncate(folder.previous)
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            tiny_run(tiny_options(resume=True))

    def test_a_full_disk_ends_the_run_and_making_room_lets_it_go_on(
        self, tiny_options, tiny_run, tmp_path, monkeypatch
    ) -> None:
        whole = tiny_run(tiny_options(out=tmp_path / "whole"))
        save, calls = torch.save, []

        def disk_full(content, file) -> None:
            calls.append(file)
            if len(calls) == 3:
                file.write(b"x" * 100)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            save(content, file)

        monkeypatch.setattr(torch, "save", disk_full)
        with pytest.raises(OSError, match=r"last\.ckpt could not be written \(No space left on device\)"):
            tiny_run(tiny_options(checkpoint_every_steps=2))
        monkeypatch.undo()
        folder = whole.folder.__class__(tiny_options().folder)
        assert not list(folder.path.rglob("*.partial"))
        assert newest_intact(folder.checkpoint).step == 4
        resumed = tiny_run(tiny_options(resume=True))
        one, two = (torch.load(run.folder.checkpoint, weights_only=True) for run in (whole, resumed))
        torch.testing.assert_close(one["state_dict"], two["state_dict"], rtol=0, atol=0)
