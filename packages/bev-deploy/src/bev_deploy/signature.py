"""What goes into an exported step and what comes out: names, shapes, types and meaning.

Letters: B samples, N cameras, input H x W, features h x w, D depth bins, F past frames, T tasks, V cells.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bev_heads import CenterOutput
from bev_lss import CameraDepthNet
from bev_ops import SweepViews
from bev_zoo import Detector
from bev_zoo.build import STEREO_STRIDE, map_shape

from .step import Precision, raw_names
from .tables import FANS

__all__ = ["STATE", "Layout", "TensorSpec", "inputs_of", "outputs_of"]

# What the state after a step is called, and what it goes in as at the next one.
STATE = {"next_history": "history", "next_stereo": "stereo"}

_FLOAT = {"fp32": "float32", "fp16": "float16"}
_SWEEP = {
    "pixels": "feature pixels before the augmentation, raw pixels u, v",
    "pixel_to_previous": "raw pixel (u, v, 1) times depth to the previous camera, without the translation",
    "translation": "of the same, metres",
    "intrinsics": "raw-pixel camera matrices",
    "image_aug": "raw pixel to network-input pixel",
}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. Sizes that depend on the calibration, and a batch of any size, are names."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What decides shapes beside the recipe.

    Args:
        cameras: N.
        batch: B, or None for any number.
        precision: of the state.
        raw: raw outputs.
        raw_size: (W', H') of uint8 images, if the graph pre-processes.
    """

    cameras: int = 6
    batch: int | None = 1
    precision: Precision = "fp32"
    raw: bool = False
    raw_size: tuple[int, int] | None = None

    @property
    def samples(self) -> int | str:
        """B as it stands in shapes."""
        return "batch" if self.batch is None else self.batch

    def images(self, per_camera: int) -> int | str:
        """Something per camera image."""
        return f"batch*{self.cameras * per_camera}" if self.batch is None else self.batch * self.cameras * per_camera


def inputs_of(model: Detector, layout: Layout) -> list[TensorSpec]:
    """Inputs of the step of a model, in order."""
    recipe, b, n = model.recipe, layout.samples, layout.cameras
    specs = [_images(model, layout)]
    if isinstance(model.view_transform.depth_net, CameraDepthNet):
        specs.append(
            TensorSpec("camera_params", (b, n, 27), "float32", "of every camera, see bev_lss.camera_parameters")
        )
    specs += _tables(model, layout)
    past = recipe.temporal.history
    if past:
        state = _FLOAT[layout.precision]
        specs += [
            TensorSpec("history", (b, past, *map_shape(recipe)), state, "maps of past frames, newest first, as made"),
            TensorSpec("history_valid", (b, past), "bool", "false: the map of now stands in, as in a fresh scene"),
            TensorSpec(
                "history_cells", (b, past, 2, 3), "float32", "cell (x, y, 1) of now to cell (x, y) of the past map"
            ),
        ]
    return specs + (_stereo(model, layout) if recipe.stereo else [])


def outputs_of(model: Detector, layout: Layout) -> list[TensorSpec]:
    """Outputs of the step of a model, in order."""
    recipe, b = model.recipe, layout.samples
    specs = _occupancy_outputs(model, layout) if recipe.task == "occupancy" else _box_outputs(model, layout)
    state = _FLOAT[layout.precision]
    if recipe.temporal.history:
        shape = (b, recipe.temporal.history, *map_shape(recipe))
        specs.append(TensorSpec("next_history", shape, state, "history of the next step"))
    if recipe.stereo:
        specs.append(TensorSpec("next_stereo", _stereo_shape(model, layout), state, "stereo of the next step"))
    return specs


def _images(model: Detector, layout: Layout) -> TensorSpec:
    b, n = layout.samples, layout.cameras
    if layout.raw_size is not None:
        width, height = layout.raw_size
        return TensorSpec("images", (b, n, height, width, 3), "uint8", "RGB, as the camera gives them")
    return TensorSpec("images", (b, n, 3, *model.recipe.input_size), "float32", "normalised, channels B, G, R")


def _tables(model: Detector, layout: Layout) -> list[TensorSpec]:
    recipe, b, n = model.recipe, layout.samples, layout.cameras
    width, bins = recipe.input_size[1] // model.view_transform.stride, recipe.view.depth.count
    cells = recipe.view.grid.num_cells
    shapes: dict[str, tuple[tuple[int | str, ...], str]] = {
        "run_first": ((b, n, width, bins, 1), "first row of the run of a column at a depth"),
        "run_end": ((b, n, width, bins, 1), "the row after its last; 0 without a run"),
        "point_depth": (("points",), "single points, positions in depth (B, N, D, h, w)"),
        "point_pixel": (("points",), "the same, positions in context (B, N, w, h)"),
        "sums_1": (("sums_1", FANS[0]), "rows that are added up first"),
        "sums_2": (("sums_2", FANS[1]), "rows of those sums"),
        "sums_3": (("sums_3", "width_3"), "rows of the sums of those"),
        "cell_row": ((f"batch*{cells}" if layout.batch is None else layout.batch * cells,), "the row of every cell"),
    }
    return [TensorSpec(f"pool_{name}", shape, "int32", text) for name, (shape, text) in shapes.items()]


def _stereo(model: Detector, layout: Layout) -> list[TensorSpec]:
    images = layout.images(1)
    height, width = (size // STEREO_STRIDE for size in model.recipe.input_size)
    shapes: dict[str, tuple[int | str, ...]] = {"pixels": (images, 2, height, width), "translation": (images, 3)}
    return [
        TensorSpec("stereo", _stereo_shape(model, layout), _FLOAT[layout.precision], "features of the frame before"),
        TensorSpec("stereo_valid", (layout.samples,), "bool", "false: the frame is compared with itself"),
        *(
            TensorSpec(f"sweep_{field.name}", shapes.get(field.name, (images, 3, 3)), "float32", _SWEEP[field.name])
            for field in dataclasses.fields(SweepViews)
        ),
    ]


def _stereo_shape(model: Detector, layout: Layout) -> tuple[int | str, ...]:
    height, width = (size // STEREO_STRIDE for size in model.recipe.input_size)
    return (layout.samples, layout.cameras, model.backbone.channels[0], height, width)


def _occupancy_outputs(model: Detector, layout: Layout) -> list[TensorSpec]:
    shape = (layout.samples, *model.recipe.view.grid.size)
    if layout.raw:
        return [TensorSpec("logits", (*shape, len(model.recipe.classes)), "float32", "of every voxel (X, Y, Z)")]
    return [TensorSpec("voxels", shape, "int32", "class of every voxel (X, Y, Z)")]


def _box_outputs(model: Detector, layout: Layout) -> list[TensorSpec]:
    head, b = model.head, layout.samples
    x, y, _ = head.grid.size
    if layout.raw:
        planes = dict.fromkeys(CenterOutput._fields, 2) | {"height": 1, "size": 3}
        channels = [
            classes if field == "heatmap" else planes[field]
            for classes in head.classes_per_task
            for field in CenterOutput._fields
        ]
        names = raw_names(len(head.tasks))
        return [
            TensorSpec(name, (b, c, y, x), "float32", "see bev_heads.CenterOutput")
            for name, c in zip(names, channels, strict=True)
        ]
    tasks = len(head.tasks)
    most = min(head.decode_options.max_candidates, max(head.classes_per_task) * x * y)
    return [
        TensorSpec("boxes", (b, tasks, most, 9), "float32", "x, y, z, length, width, height, yaw, vx, vy; best first"),
        TensorSpec("scores", (b, tasks, most), "float32", "before suppression, best first"),
        TensorSpec("labels", (b, tasks, most), "int32", "positions in classes"),
    ]
