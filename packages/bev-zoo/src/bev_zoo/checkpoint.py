"""Reading and writing checkpoints: our own safetensors, and the published ``.pth`` files."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bev_backbones import published_swin_entry, published_swin_name

from .create import entry_shapes
from .detector import Detector
from .recipes import get_recipe, list_recipes

__all__ = [
    "CheckpointError",
    "LoadReport",
    "load_checkpoint",
    "load_matching",
    "looks_like",
    "published_to_our_name",
    "read_checkpoint",
    "read_input_size",
    "read_recipe_name",
    "save_checkpoint",
]

_FORMAT = "bevkit-1"

# Published module names to ours, applied in this order. Every rule names one module of the published detector. The
# image backbones of Swin systems are renamed (and reordered) by bev_backbones.
_PUBLISHED_NAMES: tuple[tuple[str, str], ...] = (
    (r"^img_backbone\.", "backbone.body."),
    (r"^img_neck\.lateral_convs\.(\d+)\.conv\.", r"neck.lateral_convs.\1."),
    (r"^img_neck\.fpn_convs\.0\.conv\.", "neck.output_conv."),
    (r"^img_neck\.conv\.", "neck.fuse."),
    (r"^img_view_transformer\.depth_net\.(weight|bias)$", r"view_transform.depth_net.projection.\1"),
    (r"^img_view_transformer\.depth_net\.", "view_transform.depth_net."),
    (r"^(view_transform\.depth_net)\.reduce_conv\.", r"\1.reduce."),
    (r"^(view_transform\.depth_net)\.bn\.", r"\1.camera_norm."),
    (r"^(view_transform\.depth_net\.\w+_se)\.conv_(reduce|expand)\.", r"\1.\2."),
    (r"^(view_transform\.depth_net)\.cost_volumn_net\.", r"\1.cost_net."),
    (r"^(view_transform\.depth_net)\.depth_conv\.([012])\.downsample\.", r"\1.depth_blocks.\2.shortcut."),
    (r"^(view_transform\.depth_net)\.depth_conv\.([012])\.", r"\1.depth_blocks.\2."),
    (r"^(view_transform\.depth_net)\.depth_conv\.3\.aspp1\.", r"\1.aspp.branches.0."),
    (r"^(view_transform\.depth_net)\.depth_conv\.3\.aspp2\.", r"\1.aspp.branches.1."),
    (r"^(view_transform\.depth_net)\.depth_conv\.3\.aspp3\.", r"\1.aspp.branches.2."),
    (r"^(view_transform\.depth_net)\.depth_conv\.3\.aspp4\.", r"\1.aspp.branches.3."),
    (r"^(view_transform\.depth_net\.aspp\.branches\.\d)\.atrous_conv\.", r"\1.0."),
    (r"^(view_transform\.depth_net\.aspp\.branches\.\d)\.bn\.", r"\1.1."),
    (r"^(view_transform\.depth_net)\.depth_conv\.3\.global_avg_pool\.1\.", r"\1.aspp.pooled.0."),
    (r"^(view_transform\.depth_net)\.depth_conv\.3\.global_avg_pool\.2\.", r"\1.aspp.pooled.1."),
    (r"^(view_transform\.depth_net)\.depth_conv\.3\.conv1\.", r"\1.aspp.fuse.0."),
    (r"^(view_transform\.depth_net)\.depth_conv\.3\.bn1\.", r"\1.aspp.fuse.1."),
    (r"^(view_transform\.depth_net)\.depth_conv\.4\.", r"\1.depth_out."),
    (r"^pre_process_net\.layers\.", "frame_encoder.stages."),
    (r"^img_bev_encoder_backbone\.layers\.", "bev_encoder.stages."),
    # Voxel encoders: a convolution and its norm are one published module.
    (r"^((?:frame|bev)_encoder\.stages\.\d+\.\d+)\.conv(\d)\.conv\.", r"\1.conv\2."),
    (r"^((?:frame|bev)_encoder\.stages\.\d+\.\d+)\.conv(\d)\.bn\.", r"\1.bn\2."),
    (r"^((?:frame|bev)_encoder\.stages\.\d+\.\d+)\.downsample\.conv\.", r"\1.shortcut.0."),
    (r"^((?:frame|bev)_encoder\.stages\.\d+\.\d+)\.downsample\.bn\.", r"\1.shortcut.1."),
    (r"^img_bev_encoder_neck\.conv\.conv\.", "bev_neck.fuse.0."),
    (r"^img_bev_encoder_neck\.conv\.bn\.", "bev_neck.fuse.1."),
    (r"^img_bev_encoder_neck\.conv\.", "bev_neck.fuse."),
    (r"^img_bev_encoder_neck\.up2\.", "bev_neck.output."),
    (r"^final_conv\.conv\.", "head.conv."),
    (r"^predicter\.", "head.predictor."),
    (r"^pts_bbox_head\.", "head."),
    (r"^(head\.task_heads\.\d+)\.reg\.", r"\1.offset."),
    (r"^(head\.task_heads\.\d+)\.dim\.", r"\1.size."),
    (r"^(head\.task_heads\.\d+)\.rot\.", r"\1.yaw."),
    (r"^(head\.task_heads\.\d+)\.vel\.", r"\1.velocity."),
)
_PUBLISHED_BACKBONE = "img_backbone."
_PUBLISHED_PREFIXES = (_PUBLISHED_BACKBONE, "pts_bbox_head.", "img_view_transformer.")
# What a published Swin backbone is made of, and no ResNet.
_SWIN_PARTS = ("stages.", "patch_embed.", "absolute_pos_embed", "norm2.", "norm3.")
_SWIN_MARKS = tuple(_PUBLISHED_BACKBONE + part for part in _SWIN_PARTS)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, is not safe to read, or does not fit the model."""


def save_checkpoint(model: Detector, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write weights and buffers as safetensors, with the recipe's name; the file appears whole or not at all.

    Args:
        model: the detector.
        path: file to write; its folder must exist.
        metadata: further strings to record.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    recorded = {"format": _FORMAT, "recipe": model.recipe.name, "input_size": json.dumps(model.recipe.input_size)}
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, metadata={**recorded, **(metadata or {})})
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def load_checkpoint(model: Detector, source: str | Path | Mapping[str, Tensor]) -> None:
    """Load weights into a model: all of them, or none.

    Args:
        model: the detector they must fit.
        source: a ``.safetensors`` file of ours, a published ``.pth``, or a state dict of either kind.

    Raises:
        CheckpointError: unreadable, unsafe, or keys or shapes that do not fit; the model is left as it was, and the
            message says which system the checkpoint looks like.
    """
    state = _to_our_entries(_state_of(source))
    wanted = model.state_dict()
    problems = _differences(state, wanted)
    if problems:
        origin = "the state dict" if isinstance(source, Mapping) else str(source)
        recorded = None if isinstance(source, Mapping) else read_recipe_name(source)
        nearest = recorded or looks_like(state)
        told = "was written for" if recorded else "looks like one of"
        hint = f"; it {told} {nearest}" if nearest and nearest != model.recipe.name else ""
        raise CheckpointError(
            f"{origin} does not fit {model.recipe.name}{hint}: nothing was loaded\n" + "\n".join(problems)
        )
    model.load_state_dict({name: state[name] for name in wanted})


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_matching` did, by our names."""

    loaded: list[str]
    missing: list[str]  # in the model, not in the checkpoint
    unexpected: list[str]  # in the checkpoint, not in the model
    mismatched: list[str]  # in both, with different shapes: left as they were

    def __str__(self) -> str:
        """A few lines: how many entries were loaded, and the rest grouped by module."""
        groups = (
            ("not in the checkpoint", self.missing),
            ("not in the model", self.unexpected),
            ("of another shape", self.mismatched),
        )
        lines = [line for title, names in groups if names for line in _group(title, names)]
        return "\n".join([f"loaded {len(self.loaded)} entries", *lines])


def load_matching(model: Detector, source: str | Path | Mapping[str, Tensor]) -> LoadReport:
    """Load every entry whose name and shape the model shares, and leave the rest of the model as it is.

    How a published occupancy system starts from a detection checkpoint. Look at the report: nothing else tells what was
    not loaded.

    Args:
        model: the detector to start.
        source: as for :func:`load_checkpoint`.

    Raises:
        CheckpointError: unreadable, unsafe, or not one entry fits.
    """
    state = _to_our_entries(_state_of(source))
    wanted = model.state_dict()
    shared = [name for name in wanted if name in state]
    fitting = [name for name in shared if state[name].shape == wanted[name].shape]
    if not fitting:
        raise CheckpointError(
            f"not one of the {len(state)} entries of the checkpoint fits {model.recipe.name}: is it a detector at all?"
        )
    model.load_state_dict({name: state[name] for name in fitting}, strict=False)
    return LoadReport(
        loaded=fitting,
        missing=[name for name in wanted if name not in state],
        unexpected=[name for name in state if name not in wanted],
        mismatched=[name for name in shared if name not in set(fitting)],
    )


def looks_like(state: Mapping[str, Tensor]) -> str | None:
    """The recipe whose model shares most entries (name and shape) with a state dict; None below one half."""
    got = {(name, tuple(tensor.shape)) for name, tensor in _to_our_entries(state).items()}
    scores = {}
    for recipe in list_recipes():
        wanted = entry_shapes(get_recipe(recipe))
        scores[recipe] = len(got & wanted) / max(len(got | wanted), 1)
    best = max(scores, key=scores.get)
    return best if scores[best] > 0.5 else None


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, by the names they have in it.

    Raises:
        CheckpointError: missing, truncated, of another kind, or a pickle that wants to run code.
    """
    path = _existing(path)
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{path} holds no state dict of tensors: wanted names with tensors, or those under 'state_dict'"
        )
    return state


def read_recipe_name(path: str | Path) -> str | None:
    """The recipe a file of ours was written for; None for files of other kinds.

    Raises:
        CheckpointError: no such file, or a damaged one.
    """
    return _metadata(path).get("recipe")


def read_input_size(path: str | Path) -> tuple[int, int] | None:
    """Height and width of the network input, pixels, a file of ours was written for; None for files of other kinds.

    Raises:
        CheckpointError: no such file, or a damaged one.
    """
    size = json.loads(_metadata(path).get("input_size", "null"))
    return None if size is None else (size[0], size[1])


def _metadata(path: str | Path) -> dict[str, str]:
    """What a file of ours records beside the tensors; empty for files of other kinds."""
    path = _existing(path)
    if path.suffix != ".safetensors":
        return {}
    with _open_safetensors(path) as file:
        return file.metadata() or {}


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint file at {path}")
    return path


@contextmanager
def _open_safetensors(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}): copy it again") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with _open_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} needs code execution to be read, or is no checkpoint, and was refused ({_first_line(error)}): "
            "re-save only its 'state_dict' on a machine you trust it on"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint ({_first_line(error)}): copy it again") from error
    for wrapper in ("state_dict", "model"):  # mmcv's and the ImageNet checkpoints' habit
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    return dict(content) if isinstance(content, Mapping) else {}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _state_of(source: str | Path | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return source if isinstance(source, Mapping) else read_checkpoint(source)


def _to_our_entries(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published entries become ours; entries of ours stay. A ``module.`` prefix of parallel training falls away."""
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if not any(name.startswith(_PUBLISHED_PREFIXES) for name in state):
        return state
    entries = (_published_entry(name, tensor) for name, tensor in state.items())
    return dict(entry for entry in entries if entry is not None)


def _published_entry(name: str, tensor: Tensor) -> tuple[str, Tensor] | None:
    """One entry of a published checkpoint, as ours; None for what our models work out themselves."""
    our_name = published_to_our_name(name)
    if our_name is None:
        return None
    if name.startswith(_SWIN_MARKS):  # patch merging takes its inputs in another order
        _, tensor = published_swin_entry(name.removeprefix(_PUBLISHED_BACKBONE), tensor)
    return our_name, tensor


def published_to_our_name(name: str) -> str | None:
    """The name that an entry of a published checkpoint has in our detectors; None if they work it out themselves."""
    if name.startswith(_SWIN_MARKS):
        swin_name = published_swin_name(name.removeprefix(_PUBLISHED_BACKBONE))
        return None if swin_name is None else f"backbone.{swin_name}"
    for pattern, replacement in _PUBLISHED_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _differences(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Grouped, readable differences between a state dict and what the model wants; empty if it fits."""
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    shapes = [
        f"{name}: wanted {tuple(wanted[name].shape)}, got {tuple(state[name].shape)}"
        for name in wanted
        if name in state and wanted[name].shape != state[name].shape
    ]
    groups = (("missing", missing), ("not in the model", unexpected), ("of another shape", shapes))
    return [line for title, names in groups if names for line in _group(title, names)]


def _group(title: str, names: list[str], shown: int = 4) -> list[str]:
    """One line per leading module, so that a wrong backbone is one line and not three hundred."""
    by_module: dict[str, list[str]] = {}
    for name in names:
        by_module.setdefault(name.split(".")[0], []).append(name)
    lines = [f"  {title} ({len(names)}):"]
    for module, members in by_module.items():
        more = f", and {len(members) - shown} more" if len(members) > shown else ""
        lines.append(f"    {module} ({len(members)}): {', '.join(members[:shown])}{more}")
    return lines
