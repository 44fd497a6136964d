"""Loading workers that die or hang: said in one line, the state saved, and the run goes on with the same numbers."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest
import torch

from bev_train.callbacks import GracefulStop
from bev_train.workers import WorkerError, worker_error


def _same_weights(one: Path, two: Path) -> None:
    first, second = (torch.load(path, weights_only=True) for path in (one, two))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step"):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0, msg=lambda text, key=key: f"{key}: {text}")


def _at_step(monkeypatch, step: int, what) -> None:
    """Do something to the loading workers at the end of a step."""
    on_batch_end = GracefulStop.on_train_batch_end

    def acting(self, trainer, *args) -> None:
        if trainer.global_step == step:
            for child in multiprocessing.active_children():
                what(child)
        on_batch_end(self, trainer, *args)

    monkeypatch.setattr(GracefulStop, "on_train_batch_end", acting)


@pytest.mark.parametrize("step", [2, 6, 8])
def test_a_killed_worker_is_named_and_the_run_goes_on_where_it_was(
    tiny_options, tiny_run, tmp_path, monkeypatch, step: int
) -> None:
    whole = tiny_run(tiny_options(out=tmp_path / "whole"))
    _at_step(monkeypatch, step, lambda child: (child.kill(), time.sleep(0.2)))
    told = r"DataLoader worker \(pid.*\) (is killed|exited).*out of memory.*--workers.*--resume"
    with pytest.raises(WorkerError, match=told):
        tiny_run(tiny_options(workers=1))
    monkeypatch.undo()
    saved = torch.load(tiny_options().folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert step <= saved <= step + 3  # what was loaded already is still used
    _same_weights(whole.folder.checkpoint, tiny_run(tiny_options(resume=True)).folder.checkpoint)


def test_a_hanging_worker_is_noticed_and_ended(tiny_options, tiny_run, tiny_data, tmp_path, monkeypatch) -> None:
    whole = tiny_run(tiny_options(out=tmp_path / "whole"))
    read = tiny_data.__getitem__

    def hanging(self, draw):
        if len(self.drawn) == 15:
            time.sleep(600)
        return read(self, draw)

    monkeypatch.setattr(tiny_data, "__getitem__", hanging)
    with pytest.raises(WorkerError, match=r"gave no batch for 1 s \(--worker-timeout\)"):
        tiny_run(tiny_options(workers=1, worker_timeout=1.0))
    monkeypatch.undo()
    assert not multiprocessing.active_children()
    saved = torch.load(tiny_options().folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert saved == 7
    _same_weights(whole.folder.checkpoint, tiny_run(tiny_options(resume=True)).folder.checkpoint)


def test_a_worker_that_dies_in_the_middle_of_an_accumulated_step_loses_that_step(
    tiny_options, tiny_run, tmp_path, monkeypatch
) -> None:
    options = {"accumulate": 3}
    whole = tiny_run(tiny_options(out=tmp_path / "whole", **options), size=17)
    _at_step(monkeypatch, 2, lambda child: (child.kill(), time.sleep(0.2)))
    with pytest.raises(WorkerError):
        tiny_run(tiny_options(workers=1, **options), size=17)
    monkeypatch.undo()
    resumed = tiny_run(tiny_options(resume=True, **options), size=17)
    _same_weights(whole.folder.checkpoint, resumed.folder.checkpoint)


def test_other_errors_are_no_worker_errors() -> None:
    assert worker_error(RuntimeError("CUDA out of memory")) is None
