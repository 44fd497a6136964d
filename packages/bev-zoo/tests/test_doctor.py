"""bev-doctor: every kind of finding, from installations, files and machines that are not in order."""

from __future__ import annotations

import json
import re
import types
from pathlib import Path

import pytest
import torch

from bev_doctor import Finding, State, files, machine, software
from bev_doctor.__main__ import main
from bev_doctor.finding import as_text
from bev_zoo import create_model, save_checkpoint


def states(findings: list[Finding]) -> list[State]:
    return [finding.state for finding in findings]


# ---- software ----


def library(**changes: str) -> software._Wanted:
    return software._Wanted(
        **(
            {"module": "json", "distribution": "torch", "at_least": "2.11", "needed_by": "", "install": "do it"}
            | changes
        )
    )


@pytest.mark.parametrize(
    ("wanted", "state", "what", "advice"),
    [
        (library(), State.OK, "torch 2.12.0+cu130", ""),
        (library(distribution="no-such-thing"), State.PROBLEM, "no-such-thing is not installed", "do it"),
        (
            library(distribution="no-such-thing", needed_by="engines"),
            State.NOTE,
            "no-such-thing is not installed",
            "only for engines: do it",
        ),
        (library(at_least="2.12.1"), State.PROBLEM, "torch 2.12.0+cu130 is older than 2.12.1", "do it"),
        (library(module="no_such_module"), State.PROBLEM, "cannot be imported: ModuleNotFoundError", "install it anew"),
    ],
    ids=["there", "missing", "missing, for some", "old", "broken"],
)
def test_a_library(monkeypatch, wanted, state, what, advice) -> None:
    monkeypatch.setattr(software, "_version", lambda name: {"torch": "2.12.0+cu130"}.get(name))
    found = software._library(wanted)
    assert found.state is state
    assert what in found.what
    assert found.advice.startswith(advice)


def test_versions_are_compared_as_numbers() -> None:
    assert software._numbers("2.9.1") < software._numbers("2.11.0rc1+cu130")


def test_versions_are_those_that_our_packages_ask_for() -> None:
    root = Path(__file__).resolve().parents[3]
    asked = {}
    for project in [*root.glob("packages/*/pyproject.toml"), *root.glob("apps/*/pyproject.toml")]:
        for name, version in re.findall(r'"([\w-]+)>=([\d.]+)', project.read_text()):
            asked[name] = max(asked.get(name, version), version, key=software._numbers)
    wanted = {entry.distribution: entry.at_least for entry in software._WANTED if entry.at_least}
    assert wanted == {name: asked.get(name) for name in wanted}


def test_our_packages_are_imported() -> None:
    listed, *broken = software._our_packages()
    assert "bev-zoo 0.1.0" in listed.what
    assert not [finding for finding in broken if finding.what.startswith(("bev_zoo", "bev_ops", "bev_lss"))]


# ---- the machine ----


def test_little_room_is_said(monkeypatch) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: types.SimpleNamespace(total=64 << 20, free=1 << 30))
    found = {finding.what.split(" GiB ")[1]: finding for finding in machine.check_machine()[1:]}
    shared = next(finding for what, finding in found.items() if what.startswith("of shared memory"))
    disk = next(finding for what, finding in found.items() if what.startswith("free in"))
    assert (shared.state, disk.state) == (State.PROBLEM, State.NOTE)
    assert "--shm-size" in shared.advice


@pytest.mark.parametrize(
    ("driver", "cuda", "state", "what"),
    [
        (None, "13.0", State.OK, "none here"),
        ("580.1", None, State.PROBLEM, "built without CUDA"),
        ("470.1", "13.0", State.PROBLEM, "driver 470.1.*CUDA 13.0 cannot use it"),
    ],
    ids=["none", "a build for CPUs", "an old driver"],
)
def test_gpus_that_pytorch_does_not_see(monkeypatch, driver, cuda, state, what) -> None:
    monkeypatch.setattr(machine, "_driver", lambda: driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    (found,) = machine.check_gpus()
    assert found.state is state
    assert re.search(what, found.what), found.what


def test_a_driver_that_hangs_is_not_waited_for(monkeypatch) -> None:
    def hang(command: list[str], **_: object) -> None:
        raise machine.subprocess.TimeoutExpired(command, 30)

    monkeypatch.setattr(machine.shutil, "which", lambda name: name)
    monkeypatch.setattr(machine.subprocess, "run", hang)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (found,) = machine.check_gpus()
    assert found.state is State.PROBLEM


def test_kernels_are_loaded_on_request() -> None:
    (cpu,) = [finding for finding in machine.check_kernels(load=True) if finding.what.startswith("cpu")]
    assert (cpu.state is State.OK) == ("compiled kernels" in cpu.what)
    assert bool(cpu.advice) == (cpu.state is not State.OK)


# ---- files ----


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_checkpoint(create_model("bevdet-tiny"), path)
    return path


def test_a_checkpoint_that_is_whole(weights) -> None:
    (found,) = files.check_checkpoint(weights)
    assert found.state is State.OK
    assert "bevdet-tiny" in found.what


def test_checkpoints_that_are_not(weights, tmp_path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:-100])
    state = create_model("bevdet-tiny").state_dict()
    next(iter(state.values())).fill_(torch.nan)
    diverged, other = tmp_path / "diverged.pth", tmp_path / "other.pth"
    torch.save({"state_dict": state}, diverged)
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, other)
    for path, recipe, what in (
        (tmp_path / "none.pth", None, "no checkpoint file"),
        (cut, None, "not a readable safetensors file"),
        (diverged, None, "1 of .* tensors are not finite"),
        (other, None, "look like no known system"),
        (weights, "bevdet-tiny-occ", "bevdet-tiny"),
    ):
        (found,) = files.check_checkpoint(path, recipe)
        assert found.state is State.PROBLEM, path
        assert re.search(what, found.what), found.what
        assert found.advice


def test_data_that_is_not_there(tmp_path) -> None:
    (found,) = files.check_data(str(tmp_path), "v1.0-mini")
    assert found.state is State.PROBLEM
    assert str(tmp_path) in found.what


class _Index:
    """Two key frames: one image is missing, one is empty, no LiDAR is named, occupancy is whole."""

    cameras = types.SimpleNamespace(files=torch.zeros(2, 2))

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("image-0-0", "image-0-1", "labels-0", "labels-1"):
            (root / name).write_bytes(b"x")
        (root / "image-1-0").touch()

    def __len__(self) -> int:
        return 2

    def camera_path(self, position: int, camera: int) -> Path:
        return self.root / f"image-{position}-{camera}"

    def lidar_path(self, position: int) -> Path:
        raise ValueError(f"key frame {position} has no LiDAR")

    def occupancy_path(self, position: int) -> Path:
        return self.root / f"labels-{position}"


def test_files_that_are_missing_are_counted(tmp_path) -> None:
    images, lidar, occupancy = files._missing_files("data", _Index(tmp_path))
    assert states([images, lidar, occupancy]) == [State.PROBLEM, State.NOTE, State.OK]
    assert images.what == "camera images: 2 of 4 looked at are there"
    assert lidar.what == "LiDAR files: the data set names none"


# ---- the program ----


def test_text_has_topics_advice_and_a_count() -> None:
    found = [
        Finding("a", State.OK, "one"),
        Finding("b", State.PROBLEM, "two", "mend it"),
        Finding("a", State.NOTE, "x"),
    ]
    assert as_text(found).splitlines() == [
        "a",
        "  ok       one",
        "  note     x",
        "b",
        "  problem  two",
        "           -> mend it",
        "1 problem, 1 note, 1 in order",
    ]


def test_the_program(monkeypatch, capsys, weights, tmp_path) -> None:
    monkeypatch.setattr("bev_doctor.__main__.check_software", list)
    monkeypatch.setattr("bev_doctor.__main__.check_machine", list)
    assert main(["--checkpoint", str(weights), "--json"]) == 0
    assert {finding["topic"] for finding in json.loads(capsys.readouterr().out)} >= {"GPU", "kernels", "checkpoint"}
    assert main(["--checkpoint", str(weights), "--data", str(tmp_path)]) == 1
    assert "1 problem" in capsys.readouterr().out
