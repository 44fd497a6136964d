"""What the user sees of bev-train: help, one-line errors, warnings, exit status."""

from __future__ import annotations

import signal

import pytest

from bev_train.__main__ import main
from bev_train.fit import RunResult
from bev_train.run_folder import RunFolder


@pytest.fixture
def bev_train(monkeypatch, capsys):
    """Runs the program in this process: bev_train("recipe", "--option") -> status, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["bev-train", *map(str, arguments)])
        try:
            status = main()
        except SystemExit as leaving:
            status = leaving.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


def _error(err: str) -> str:
    """The last line, which must be all the program wrote besides warnings and bars."""
    assert "Traceback" not in err
    return err.strip().splitlines()[-1]


def test_help_names_options_units_and_defaults(bev_train) -> None:
    status, out, _ = bev_train("--help")
    assert status == 0
    options = "--data.root --data.version --out --epochs --max-steps --max-minutes --batch-size --learning-rate --seed"
    options += " --milestones --workers --precision --devices --num-nodes --strategy --accumulate --no-augment"
    options += " --class-balanced --no-ema --resume --init-from --checkpoint-every-minutes --checkpoint-every-epochs"
    options += " --input-size --backbone-weights --validate-every-epochs"
    options += (
        " --checkpoint-every-steps --max-skipped-steps --worker-timeout --loggers --checkpoint-activations --compile"
    )
    options += " --channels-last --sync-bn"
    for text in (*options.split(), "minutes", "pixels", "the recipe's", "runs/RECIPE"):
        assert text in out, text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bevdet-r05"], "unknown recipe 'bevdet-r05': did you mean bevdet-r50"),
        (["bevdet-tiny"], "/nowhere"),
        (["bevdet-tiny", "--epochs", "0"], "--epochs must be above 0, got 0"),
        (["bevdet-tiny", "--max-minutes", "-1"], "--max-minutes must be above 0"),
        (["bevdet-tiny", "--workers", "-1"], "--workers must not be negative"),
        (["bevdet-tiny", "--input-size", "100", "352"], "input_size must be"),
        (["bevdet-tiny", "--validate-every-epochs", "1"], "--validate-every-epochs measures occupancy"),
        (["bevdet-tiny-occ", "--validate-every-epochs", "0"], "--validate-every-epochs must be above 0"),
        (["bevdet-tiny", "--resume"], "--resume found no run"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(bev_train, tmp_path, arguments, message) -> None:
    status, _, err = bev_train(*arguments, "--data.root", "/nowhere", "--out", tmp_path / "run")
    assert status == 2
    assert _error(err).startswith("bev-train: error: ")
    assert message in _error(err)
    assert not (tmp_path / "run").exists()


def test_unknown_option_is_said(bev_train) -> None:
    status, _, err = bev_train("bevdet-tiny", "--data.root", "x", "--bach-size", "2")
    assert status == 2
    assert "--batch-size" in err


def test_options_that_lightning_refuses(tiny_options, tiny_run) -> None:
    with pytest.raises(ValueError, match="Lightning cannot run with these options"):
        tiny_run(tiny_options(strategy="no-such-strategy"))


@pytest.mark.parametrize(("number", "status"), [(None, 0), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_exit_status_tells_how_it_ended(bev_train, monkeypatch, tmp_path, number, status) -> None:
    result = RunResult(folder=RunFolder(tmp_path), step=7, stopped_by=number and number.name, signal=number)
    monkeypatch.setattr("bev_train.app.train", lambda options: result)
    found, out, _ = bev_train("bevdet-tiny", "--data.root", "x")
    assert found == status
    assert "7 steps done" in out
    assert str(tmp_path / "model.safetensors") in out
