"""Whole runs of a tiny detector: resume, stop, save, log, refuse."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import time
from dataclasses import fields, replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bev_nuscenes import collate
from bev_train.callbacks import Checkpoints, GracefulStop
from bev_train.ema import EmaWeights
from bev_train.module import TrainingModule
from bev_train.run_folder import RunFolderError
from bev_zoo import Targets, TrainingOptions

EPOCHS, STEPS = 3, 5  # of tiny_options with 9 samples in batches of 2


def _rows(folder) -> list[dict[str, str]]:
    with folder.metrics.open(newline="") as file:
        return list(csv.DictReader(file))


def _assert_same_end(one, two) -> None:
    """Weights, average, optimiser and schedule of two runs are equal, bit for bit."""
    assert one.step == two.step == EPOCHS * STEPS
    first, second = (torch.load(run.folder.checkpoint, weights_only=True) for run in (one, two))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step"):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0, msg=lambda text, key=key: f"{key}: {text}")
    weights, others = load_file(one.folder.weights), load_file(two.folder.weights)
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop_at", [3, 5, 12], ids=["mid-epoch", "epoch end", "later epoch"])
def test_a_resumed_run_equals_an_uninterrupted_one(tiny_options, tiny_run, tmp_path, stop_at, workers) -> None:
    whole = tiny_run(tiny_options(out=tmp_path / "whole"))
    options = tiny_options(workers=workers)
    tiny_run(replace(options, max_steps=stop_at))
    resumed = tiny_run(replace(options, resume=True))
    _assert_same_end(whole, resumed)
    columns = ("step", "loss", "learning_rate", "gradient_norm")
    logs = [[{name: row[name] for name in columns} for row in _rows(run.folder)] for run in (whole, resumed)]
    assert logs[0] == logs[1]


def test_a_killed_run_resumes_from_its_last_save(tiny_options, tiny_run, tmp_path, monkeypatch) -> None:
    whole = tiny_run(tiny_options(out=tmp_path / "whole", checkpoint_every_epochs=2))
    with pytest.raises(Exception, match="Died"):  # in epoch 2, after the save at the end of epoch 1
        tiny_run(tiny_options(), dies_at=8)
    _assert_same_end(whole, tiny_run(tiny_options(resume=True, checkpoint_every_epochs=2)))


@pytest.mark.parametrize("stops", [[4, 5], [2, 5], [1, 2, 3, 5, 6, 10, 12, 15], list(range(1, 16))], ids=str)
def test_resume_again_and_again_and_after_the_end(tiny_options, tiny_run, tmp_path, stops) -> None:
    whole = tiny_run(tiny_options(out=tmp_path / "whole"))
    tiny_run(tiny_options(max_steps=stops[0]))
    for step in stops[1:]:
        assert tiny_run(tiny_options(resume=True, max_steps=step)).step == step
    _assert_same_end(whole, tiny_run(tiny_options(resume=True)))
    _assert_same_end(whole, tiny_run(tiny_options(resume=True)))  # there is nothing left to do


def test_resume_with_accumulated_gradients(tiny_options, tiny_run, tmp_path) -> None:
    options = tiny_options(accumulate=2)
    whole = tiny_run(replace(options, out=tmp_path / "whole"), size=17)
    tiny_run(replace(options, max_steps=7), size=17)
    _assert_same_end(whole, tiny_run(replace(options, resume=True), size=17))


PHASES = {"temporal_start_epoch": 0, "syncbn_start_epoch": 1, "layer_decay": 0.5, "betas": (0.8, 0.99)}


@pytest.mark.parametrize("stop_at", [3, 5, 7], ids=["before the phases", "as they begin", "within them"])
def test_resume_with_everything_that_changes_on_the_way(tiny_options, tiny_run, tmp_path, monkeypatch, stop_at) -> None:
    monkeypatch.setattr("bev_train.phases._can_share", lambda trainer: True)  # alone, it computes on the CPU too
    whole = tiny_run(tiny_options(out=tmp_path / "whole"), training=PHASES)
    tiny_run(tiny_options(max_steps=stop_at), training=PHASES)
    _assert_same_end(whole, tiny_run(tiny_options(resume=True), training=PHASES))


def test_gradients_are_clipped_to_the_norm_of_the_recipe(tiny_options, tiny_run, monkeypatch) -> None:
    norms = []
    update = EmaWeights.update

    def look(self, model) -> None:
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
        update(self, model)

    monkeypatch.setattr(EmaWeights, "update", look)
    clip_norm = 2.0
    folder = tiny_run(tiny_options(), training={"clip_norm": clip_norm}).folder
    found = [float(row["gradient_norm"]) for row in _rows(folder)]
    assert max(found) > clip_norm > min(found)
    assert norms == pytest.approx([min(norm, clip_norm) for norm in found], rel=1e-4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("workers", [0, 1])
def test_signal_to_all_processes_ends_the_run_after_a_step_and_saves(
    tiny_options, tiny_run, tmp_path, monkeypatch, workers, number
) -> None:
    whole = tiny_run(tiny_options(out=tmp_path / "whole"))
    on_batch_end = GracefulStop.on_train_batch_end
    alive = []

    def interrupt_once(self, trainer, *args) -> None:
        if trainer.global_step == 7:
            loading = multiprocessing.active_children()
            # From outside, as a terminal or a batch system does: workers take a signal from their parent otherwise.
            everyone = [str(process) for process in (os.getpid(), *(child.pid for child in loading))]
            subprocess.run(["kill", f"-{number}", *everyone], check=True)
            time.sleep(0.1)
            alive.extend(child.exitcode is None for child in loading)
        on_batch_end(self, trainer, *args)

    monkeypatch.setattr(GracefulStop, "on_train_batch_end", interrupt_once)
    before = signal.getsignal(number)
    stopped = tiny_run(tiny_options(workers=workers))
    assert (stopped.step, stopped.stopped_by, stopped.signal) == (7, number.name, number)
    assert signal.getsignal(number) is before
    assert alive == [True] * workers  # a step that is still running needs them
    monkeypatch.undo()
    _assert_same_end(whole, tiny_run(tiny_options(resume=True)))


def test_time_limit_ends_the_run(tiny_options, tiny_run) -> None:
    result = tiny_run(tiny_options(max_minutes=1e-9))
    assert result.step == 1
    assert "minutes" in result.stopped_by
    assert result.folder.checkpoint.is_file()


def test_saves_at_epoch_ends_and_after_minutes(tiny_options, tiny_run, monkeypatch) -> None:
    saved = []
    wanted = Checkpoints.__init__

    def spy(self, save, **kwargs) -> None:
        wanted(self, lambda trainer: (saved.append(trainer.global_step), save(trainer)), **kwargs)

    monkeypatch.setattr(Checkpoints, "__init__", spy)
    tiny_run(tiny_options(checkpoint_every_epochs=2))
    assert saved == [10, 15]
    saved.clear()
    tiny_run(tiny_options(out=tiny_options().folder / "often", checkpoint_every_minutes=1e-9, epochs=1))
    assert saved == [1, 2, 3, 4, 5]


def test_files_of_a_run(tiny_options, tiny_run) -> None:
    folder = tiny_run(tiny_options(seed=5)).folder
    told = json.loads((folder.path / "options.json").read_text())
    assert told["options"]["seed"] == 5
    assert told["options"]["data"]["version"] == "v1.0-mini"
    assert told["recipe"]["training"]["epochs"] == EPOCHS
    assert told["recipe"]["view"]["depth"]["upper"] == 60.0
    (start,) = json.loads((folder.path / "environment.json").read_text())["starts"]
    assert start["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert start["step"] == 0
    assert list((folder.path / "tensorboard").glob("events.*"))
    rows = _rows(folder)
    assert [int(row["step"]) for row in rows] == list(range(EPOCHS * STEPS))
    first = rows[0]
    assert float(first["loss"]) == pytest.approx(float(first["loss/heatmap"]) + float(first["loss/box"]), rel=1e-5)
    assert float(first["learning_rate"]) == pytest.approx(2e-3 * 0.001)
    assert 0 <= float(first["data_wait"]) <= 1
    assert float(first["samples_per_second"]) > 0
    assert 0.05 < float(first["host_memory_gb"]) < 100
    assert not list(folder.path.rglob("*.partial"))


@pytest.mark.parametrize("ema", [True, False])
def test_weights_are_the_average_only_if_the_run_averages(tiny_options, tiny_run, ema) -> None:
    seen = {}
    folder = tiny_run(tiny_options(ema=ema), seen=seen).folder
    live, saved = seen["model"].state_dict(), load_file(folder.weights)
    assert saved.keys() == live.keys()
    assert torch.equal(saved["layers.2.weight"], live["layers.2.weight"]) == (not ema)


def test_the_model_gets_all_ground_truth_of_the_batch(tiny_sample) -> None:
    class Model(nn.Module):
        def loss(self, images, rig, targets):
            self.targets = targets
            return {"loss": images.sum()}

    truth = {"depth": torch.ones(1, 4, 4), "semantics": torch.ones(2, 2, 2), "mask_camera": torch.ones(2, 2, 2)}
    batch = collate([replace(tiny_sample, **truth)])
    module = TrainingModule(Model(), TrainingOptions(), seed=0)
    module._log_losses = lambda *_: None  # needs a trainer
    module._batch_seed = 0
    module.training_step(batch, 0)
    for field in fields(Targets):
        assert getattr(module.model.targets, field.name) is getattr(batch, field.name) is not None


class TestRunFolder:
    def test_taken(self, tiny_options, tiny_run) -> None:
        tiny_run(tiny_options(max_steps=1))
        with pytest.raises(RunFolderError, match=r"exists already.*--resume.*--out"):
            tiny_run(tiny_options())

    def test_empty_folder_is_welcome(self, tiny_options, tiny_run) -> None:
        tiny_options().folder.mkdir()
        assert tiny_run(tiny_options(max_steps=1)).step == 1

    def test_nothing_to_resume(self, tiny_options, tiny_run) -> None:
        with pytest.raises(RunFolderError, match="found no run"):
            tiny_run(tiny_options(resume=True))

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"seed": 1}, "seed = 0, now 1"),
            ({"batch_size": 3}, "batch_size = 2, now 3"),
            ({"ema": False}, "ema = True, now False"),
            ({"learning_rate": 1e-3}, "learning_rate = 0.002, now 0.001"),
            ({"epochs": 30}, r"milestones = \[2, 3\], now \["),
        ],
    )
    def test_other_numbers_are_refused(self, tiny_options, tiny_run, change, told) -> None:
        tiny_run(tiny_options(max_steps=1))
        with pytest.raises(RunFolderError, match=told):
            tiny_run(tiny_options(resume=True, **change))

    def test_killed_before_the_first_save(self, tiny_options, tiny_run) -> None:
        with pytest.raises(Exception, match="Died"):
            tiny_run(tiny_options(), dies_at=1)
        with pytest.warns(UserWarning, match="never written"):
            assert tiny_run(tiny_options(resume=True)).step == EPOCHS * STEPS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": 100}, "--max-steps 100 is never reached: 3 epochs are 15 steps"),
        ({"milestones": (2, 7)}, r"--milestones \[7\] are never reached in 3 epochs"),
        ({"batch_size": 12}, "9 samples, fewer than the batch of 12"),
    ],
)
def test_settings_without_effect_are_said(tiny_options, tiny_run, change, message) -> None:
    with pytest.warns(UserWarning, match=message):
        tiny_run(tiny_options(**({"max_steps": 1} | change)))
