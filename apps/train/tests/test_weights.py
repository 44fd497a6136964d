"""The weights that training starts from: of a file, of another system, of the backbone alone, or fresh."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bev_train.resolve import resolve_recipe
from bev_train.weights import create_starting_model
from bev_zoo import SwinOptions, create_model, save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "start.safetensors"
    save_checkpoint(create_model("bevdet-tiny"), path)
    return path


def _state(options, recipe=None) -> dict[str, torch.Tensor]:
    return create_starting_model(options, recipe or resolve_recipe(options)).state_dict()


def test_init_from_loads_everything_that_fits(tiny_options, checkpoint, capsys) -> None:
    torch.manual_seed(1)
    source = create_model("bevdet-tiny").state_dict()
    found = _state(tiny_options(init_from=checkpoint))
    assert all(torch.equal(found[name], tensor) for name, tensor in source.items())
    assert capsys.readouterr().err == f"bev-train: {checkpoint}: loaded {len(source)} entries\n"


def test_init_from_another_system_loads_what_it_shares(tiny_options, checkpoint, capsys) -> None:
    options = tiny_options(init_from=checkpoint)
    recipe = resolve_recipe(options)
    recipe = replace(recipe, head=replace(recipe.head, shared_channels=32))
    torch.manual_seed(1)
    source = create_model("bevdet-tiny").state_dict()
    found = _state(options, recipe)
    for name, tensor in source.items():
        assert torch.equal(found[name], tensor) == (found[name].shape == tensor.shape), name
    said = capsys.readouterr().err
    others = [name for name, tensor in source.items() if found[name].shape != tensor.shape]
    assert f"loaded {len(source) - len(others)} entries" in said
    assert f"head ({len(others)}): head.shared_conv" in said


def test_a_file_with_nothing_for_the_model_is_refused(tiny_options, tmp_path) -> None:
    torch.save({"state_dict": {"another.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"not one of the 1 entries of the checkpoint fits bevdet-tiny"):
        _state(tiny_options(init_from=tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("change", "warned"),
    [({}, True), ({"resume": True}, False), ({"init_from": "checkpoint"}, False)],
)
def test_a_recipe_that_goes_on_from_a_detector_asks_for_it(tiny_options, checkpoint, recwarn, change, warned) -> None:
    options = tiny_options(**{name: checkpoint if value == "checkpoint" else value for name, value in change.items()})
    recipe = resolve_recipe(options)
    _state(options, replace(recipe, training=replace(recipe.training, load_from_detection=True)))
    assert [str(w.message) for w in recwarn] == [
        "bevdet-tiny was published as trained on from a detector: name one with --init-from"
    ] * warned


def test_a_resumed_run_reads_no_starting_weights(tiny_options) -> None:
    options = tiny_options(resume=True, init_from=Path("gone.safetensors"), backbone_weights=Path("gone.pth"))
    assert _state(options).keys() == create_model("bevdet-tiny").state_dict().keys()


def test_unreachable_pretrained_weights_say_what_to_do(tiny_options, monkeypatch) -> None:
    def offline(recipe, *, pretrained_backbone=False):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("bev_train.weights.create_model", offline)
    with pytest.raises(ValueError, match=r"tv_in1k of the resnet50 backbone could not be downloaded.*--no-pretrained"):
        _state(tiny_options(recipe="bevdet-r50"))


class TestSwin:
    @pytest.fixture
    def recipe(self, tiny_options):
        recipe = resolve_recipe(tiny_options())
        swin = SwinOptions(width=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), windows=(4, 4, 4, 4), neck_channels=64)
        return replace(recipe, backbone=swin)

    @pytest.fixture
    def pretraining(self, recipe, tmp_path) -> Path:
        torch.manual_seed(2)
        state = create_model(recipe).backbone.state_dict()
        decoder = {"decoder.weight": torch.zeros(1)}
        state = {name.replace("stages.", "layers."): t for name, t in state.items() if not name.startswith("norms.")}
        torch.save({"state_dict": state | decoder}, tmp_path / "pretraining.pth")  # names as timm has them
        return tmp_path / "pretraining.pth"

    def test_backbone_weights_start_the_backbone(self, tiny_options, recipe, pretraining, capsys, recwarn) -> None:
        found = _state(tiny_options(backbone_weights=pretraining), recipe)
        source = torch.load(pretraining)["state_dict"]
        for name in source.keys() - {"decoder.weight"}:
            assert torch.equal(found[f"backbone.{name.replace('layers.', 'stages.')}"], source[name]), name
        said = capsys.readouterr().err
        assert f"bev-train: {pretraining}: loaded {len(source) - 1} entries of the backbone\n" in said
        assert "not in the checkpoint (4): norms." in said
        assert "not in the backbone (1): decoder.weight" in said
        assert not recwarn.list

    def test_a_detector_goes_over_the_backbone_weights(self, tiny_options, recipe, pretraining, tmp_path) -> None:
        torch.manual_seed(3)
        detector = create_model(recipe)
        save_checkpoint(detector, tmp_path / "detector.safetensors")
        options = tiny_options(backbone_weights=pretraining, init_from=tmp_path / "detector.safetensors")
        found = _state(options, recipe)
        assert all(torch.equal(found[name], tensor) for name, tensor in detector.state_dict().items())

    def test_a_recipe_without_public_backbone_weights_asks_for_them(self, tiny_options, recipe) -> None:
        with pytest.warns(UserWarning, match="from a pre-trained backbone: name one with --backbone-weights"):
            _state(tiny_options(), recipe)

    def test_other_backbones_are_refused(self, tiny_options, checkpoint) -> None:
        with pytest.raises(ValueError, match="--backbone-weights is for Swin backbones, bevdet-tiny has a regnetx_002"):
            _state(tiny_options(backbone_weights=checkpoint))
