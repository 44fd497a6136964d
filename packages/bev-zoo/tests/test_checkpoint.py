"""Checkpoints: all or nothing, safely read, and told apart."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from bev_zoo import (
    CheckpointError,
    Detector,
    create_model,
    load_checkpoint,
    read_input_size,
    read_recipe_name,
    save_checkpoint,
)
from bev_zoo.checkpoint import published_to_our_name

SIZE = (64, 96)


def weights(model: Detector) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_what_is_saved_is_loaded(model: Detector, tmp_path: Path) -> None:
    save_checkpoint(model, tmp_path / "model.safetensors", {"step": "12"})
    other = create_model("bevdet-tiny", input_size=SIZE)
    assert not equal(weights(other), weights(model))
    load_checkpoint(other, tmp_path / "model.safetensors")
    assert equal(weights(other), weights(model))
    assert read_recipe_name(tmp_path / "model.safetensors") == "bevdet-tiny"
    assert read_input_size(tmp_path / "model.safetensors") == SIZE
    assert [f.name for f in tmp_path.iterdir()] == ["model.safetensors"]


def test_what_cannot_be_written_leaves_the_folder_as_it_was(model: Detector, tmp_path: Path, monkeypatch) -> None:
    def disk_full(tensors, file: Path, metadata) -> None:
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "model.safetensors").write_bytes(b"the one before")
    monkeypatch.setattr("bev_zoo.checkpoint.save_file", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(model, tmp_path / "model.safetensors")
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("model.safetensors", b"the one before")]


def test_a_parallel_prefix_falls_away(model: Detector) -> None:
    other = create_model("bevdet-tiny", input_size=SIZE)
    load_checkpoint(other, {f"module.{name}": tensor for name, tensor in model.state_dict().items()})
    assert equal(weights(other), weights(model))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("neck.output_conv.bias"), r"missing \(1\):\n    neck \(1\): neck.output_conv.bias"),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), r"not in the model \(1\):\n    extra"),
        (lambda s: s.update({"neck.output_conv.bias": torch.zeros(3)}), r"wanted \(64,\), got \(3,\)"),
    ],
)
def test_a_misfit_is_listed_and_nothing_is_loaded(model: Detector, damage: object, message: str) -> None:
    other = create_model("bevdet-tiny", input_size=SIZE)
    before = weights(other)
    state = dict(model.state_dict())
    damage(state)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(other, state)
    assert equal(weights(other), before)


def test_a_checkpoint_of_another_system_says_which(model: Detector, tmp_path: Path) -> None:
    save_checkpoint(model, tmp_path / "tiny.safetensors")
    with pytest.raises(CheckpointError, match="it was written for bevdet-tiny"):
        load_checkpoint(create_model("bevdet-r50"), tmp_path / "tiny.safetensors")


class _RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


def test_a_pickle_that_runs_code_is_refused(model: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": model.state_dict(), "payload": _RunsCode()}, "evil.pth")
    with pytest.raises(CheckpointError, match=r"needs code execution .* re-save only its 'state_dict'"):
        load_checkpoint(model, "evil.pth")
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pth", None, "no checkpoint file"),
        ("cut.safetensors", b"\x10\x00", "not a readable safetensors file"),
        ("text.pth", b"not a checkpoint", "refused|not a readable"),
        ("empty.pth", b"", "not a readable|refused"),
    ],
)
def test_unreadable_files_are_named(
    model: Detector, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(model, path)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("img_backbone.layer1.0.conv1.weight", "backbone.body.layer1.0.conv1.weight"),
        ("img_backbone.stages.0.downsample.norm.bias", "backbone.stages.1.downsample.norm.bias"),
        ("img_backbone.stages.0.blocks.1.attn.w_msa.relative_position_index", None),
        ("pts_bbox_head.task_heads.2.rot.0.conv.weight", "head.task_heads.2.yaw.0.conv.weight"),
    ],
)
def test_published_names(published: str, ours: str | None) -> None:
    assert published_to_our_name(published) == ours


def test_a_truncated_published_file_is_named(model: Detector, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "model.pth")
    whole = (tmp_path / "model.pth").read_bytes()
    (tmp_path / "model.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(model, tmp_path / "model.pth")


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"a": 1}}, {}])
def test_a_file_without_tensors_is_named(model: Detector, tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="holds no state dict of tensors"):
        load_checkpoint(model, tmp_path / "odd.pth")
