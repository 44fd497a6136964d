"""A checkpoint, run on the spot, draws what the model itself says of that sample."""

import numpy as np
import pytest
import torch
from PIL import Image

from bev_lss import CameraRig
from bev_nuscenes import DataOptions, NuscenesDataset, collate
from bev_vis.__main__ import main
from bev_vis.predict import predict
from bev_vis.source import open_source
from bev_zoo import Detections, create_model, save_checkpoint

RECIPE = "bevdet-tiny"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = create_model(RECIPE)
    for head in model.head.task_heads:  # as if it had learnt to expect something: fresh weights see nothing
        torch.nn.init.constant_(head.heatmap[-1].bias, -2.0)
    return model


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(model, path)
    return path


def test_predictions_are_the_models_own_in_the_global_frame(world, model, checkpoint):
    source = open_source(DataOptions(root=str(world)))
    boxes = predict(source, 1, None, checkpoint, "cpu")
    data = NuscenesDataset(
        source.index,
        "mini_val",
        input_size=model.recipe.input_size,
        image_augmentation=model.recipe.image_augmentation,
    )
    batch = collate([data[1]])
    (expected,) = model.predict(batch.images, CameraRig(**batch.cameras))
    assert len(boxes) == len(expected.boxes) > 0
    np.testing.assert_allclose(boxes.score, expected.scores, rtol=1e-5)
    np.testing.assert_array_equal(boxes.label, expected.labels)
    # The vehicle stands at (400, 1100) and looks along the global y axis.
    ahead, left = expected.boxes[:, 0].numpy(), expected.boxes[:, 1].numpy()
    np.testing.assert_allclose(boxes.center[:, :2], np.stack([400 - left, 1100 + ahead], axis=1), atol=1e-3)


def test_a_picture_is_drawn_from_a_checkpoint(world, checkpoint, tmp_path):
    out = tmp_path / "frame.png"
    main(["render", "--checkpoint", str(checkpoint), "--data.root", str(world), "--out", str(out)])
    assert Image.open(out).width > 2000


def test_a_checkpoint_of_another_recipe_is_refused(world, checkpoint, tmp_path, capsys):
    arguments = ["--recipe", "bevdet-r50", "--checkpoint", str(checkpoint), "--data.root", str(world)]
    assert main(["render", *arguments]) == 2
    assert "does not fit bevdet-r50; it was written for bevdet-tiny" in capsys.readouterr().err


def test_a_file_that_names_no_recipe_asks_for_one(world, tmp_path, capsys):
    weights = tmp_path / "weights.pth"
    torch.save({}, weights)
    assert main(["render", "--checkpoint", str(weights), "--data.root", str(world)]) == 2
    assert "names no recipe: give --recipe NAME" in capsys.readouterr().err


def test_a_model_is_run_at_the_size_it_was_trained_at(world, tmp_path, monkeypatch):
    small = create_model(RECIPE, input_size=(64, 96))
    save_checkpoint(small, tmp_path / "small.safetensors")
    sizes = []
    monkeypatch.setattr(type(small), "predict", lambda self, images, rig: sizes.append(images.shape[-2:]) or [_NOTHING])
    predict(open_source(DataOptions(root=str(world))), 0, None, tmp_path / "small.safetensors", "cpu")
    assert sizes == [(64, 96)]


_NOTHING = Detections(torch.zeros(0, 9), torch.zeros(0), torch.zeros(0, dtype=torch.long))
