"""A checkpoint, run on the spot, draws what the model itself says of that sample."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from bev_lss import CameraRig
from bev_nuscenes import CAMERAS, DataOptions, NuscenesDataset, collate
from bev_vis.__main__ import main
from bev_vis.predict import load_checkpoint_model, load_exported_model
from bev_vis.source import open_source
from bev_zoo import Detections, create_model, get_recipe, save_checkpoint

RECIPE = "bevdet-tiny"
POINT_DEPTH_M = 20 * np.cos(np.radians(20))  # the one LiDAR point, 20 m to the left, seen by a camera 110 deg left


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
    boxes = load_checkpoint_model(source, None, checkpoint, "cpu")(1).boxes
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
    load_checkpoint_model(open_source(DataOptions(root=str(world))), None, tmp_path / "small.safetensors", "cpu")(0)
    assert sizes == [(64, 96)]


_NOTHING = Detections(torch.zeros(0, 9), torch.zeros(0), torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize(("in_graph", "size"), [(False, (3, 128, 352)), (True, (90, 160, 3))])
def test_an_exported_model_is_given_the_images_that_it_takes(world, monkeypatch, in_graph, size):
    given = []
    exported = SimpleNamespace(
        recipe=get_recipe(RECIPE),
        device=torch.device("cpu"),
        manifest=SimpleNamespace(preprocessing=SimpleNamespace(in_graph=in_graph)),
        predict=lambda images, rig: given.append(images) or [_NOTHING],
    )
    monkeypatch.setitem(sys.modules, "bev_deploy", SimpleNamespace(load=lambda *_, **__: exported))
    load_exported_model(open_source(DataOptions(root=str(world))), RECIPE, Path("export"), "onnxruntime", "cpu")(0)
    assert given[0].shape == (1, 1, 6, *size)
    assert given[0].dtype == (torch.uint8 if in_graph else torch.float32)


@pytest.fixture(scope="module")
def history_checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("history") / "tiny-4d.safetensors"
    save_checkpoint(create_model("bevdet-tiny-4d"), path)
    return path


def test_layers_show_depth_and_history(world, history_checkpoint):
    source = open_source(DataOptions(root=str(world)))
    inner = load_checkpoint_model(source, None, history_checkpoint, "cpu", ("depth", "history"))(1).inner
    depth, history = inner.depth, inner.history
    assert depth.expected_m.shape == (6, *(side // 8 for side in depth.input_size))
    assert 1 < depth.expected_m.min() <= depth.expected_m.max() < 60
    measured = np.isfinite(depth.lidar_m)
    assert measured.any(axis=(1, 2)).tolist() == [name == "CAM_BACK_LEFT" for name in CAMERAS]
    assert depth.lidar_m[measured] == pytest.approx(POINT_DEPTH_M, abs=0.01)
    # Each scene of this world has one frame, which stands in for the one before it.
    np.testing.assert_allclose(history.before, history.now, atol=1e-4)
    np.testing.assert_allclose(history.difference, 0, atol=1e-4)
    assert history.now.max() > 0


def test_the_heatmap_is_the_surest_of_all_classes(world, model, checkpoint):
    source = open_source(DataOptions(root=str(world)))
    running = load_checkpoint_model(source, None, checkpoint, "cpu", ("heatmap",))
    heatmap, batch = running(1).inner.heatmap, collate([running.data[1]])
    with torch.no_grad():
        outputs = model.eval()(batch.images, CameraRig(**batch.cameras))
    classes_yx = torch.cat([output.heatmap[0] for output in outputs]).sigmoid().numpy()
    np.testing.assert_allclose(heatmap.probability, classes_yx.max(axis=0).T, atol=1e-5)
    chosen = np.take_along_axis(classes_yx, heatmap.label.T[None], axis=0)[0]
    np.testing.assert_allclose(chosen, heatmap.probability.T, atol=1e-5)
    assert (heatmap.lower, heatmap.upper) == (model.head.grid.lower[:2], model.head.grid.upper[:2])


def test_a_picture_has_the_layers(world, history_checkpoint, tmp_path):
    arguments = ["--checkpoint", str(history_checkpoint), "--data.root", str(world), "--out", "frame.png"]
    widths = []
    for layers in ((), ("--layers", "depth", "history")):
        assert main(["render", *arguments, *layers]) == 0
        widths.append(Image.open("frame.png").width)
    assert widths[1] > widths[0] + 200  # the maps of the history


def test_a_recipe_without_history_says_so(world, checkpoint, capsys):
    arguments = ["--checkpoint", str(checkpoint), "--data.root", str(world), "--layers", "history"]
    assert main(["render", *arguments]) == 2
    assert "bevdet-tiny sees one frame" in capsys.readouterr().err
