"""Reading and writing checkpoints: our own safetensors, and the published ``.pth`` files."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .detector import Detector

__all__ = [
    "CheckpointError",
    "load_checkpoint",
    "published_to_our_name",
    "read_checkpoint",
    "read_input_size",
    "read_recipe_name",
    "save_checkpoint",
]

_FORMAT = "bevkit-1"

# Published module names to ours, applied in this order. Every rule names one module of the published detector.
_PUBLISHED_NAMES: tuple[tuple[str, str], ...] = (
    (r"^img_backbone\.", "backbone.body."),
    (r"^img_neck\.lateral_convs\.(\d+)\.conv\.", r"neck.lateral_convs.\1."),
    (r"^img_neck\.fpn_convs\.0\.conv\.", "neck.output_conv."),
    (r"^img_view_transformer\.depth_net\.(weight|bias)$", r"view_transform.depth_net.projection.\1"),
    (r"^img_bev_encoder_backbone\.layers\.", "bev_encoder.stages."),
    (r"^img_bev_encoder_neck\.conv\.", "bev_neck.fuse."),
    (r"^img_bev_encoder_neck\.up2\.", "bev_neck.output."),
    (r"^pts_bbox_head\.", "head."),
    (r"^(head\.task_heads\.\d+)\.reg\.", r"\1.offset."),
    (r"^(head\.task_heads\.\d+)\.dim\.", r"\1.size."),
    (r"^(head\.task_heads\.\d+)\.rot\.", r"\1.yaw."),
    (r"^(head\.task_heads\.\d+)\.vel\.", r"\1.velocity."),
)
_PUBLISHED_PREFIXES = ("img_backbone.", "pts_bbox_head.", "img_view_transformer.")


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
    save_file(tensors, partial, metadata={**recorded, **(metadata or {})})
    partial.replace(path)


def load_checkpoint(model: Detector, source: str | Path | Mapping[str, Tensor]) -> None:
    """Load weights into a model: all of them, or none.

    Args:
        model: the detector they must fit.
        source: a ``.safetensors`` file of ours, a published ``.pth``, or a state dict of either kind.

    Raises:
        CheckpointError: unreadable, unsafe, or keys or shapes that do not fit; the model is left as it was.
    """
    state = source if isinstance(source, Mapping) else read_checkpoint(source)
    origin = "the state dict" if isinstance(source, Mapping) else str(source)
    state = _to_our_names(state)
    wanted = model.state_dict()
    problems = _differences(state, wanted)
    if problems:
        recorded = None if isinstance(source, Mapping) else read_recipe_name(source)
        hint = f"; it was written for {recorded}" if recorded and recorded != model.recipe.name else ""
        raise CheckpointError(
            f"{origin} does not fit {model.recipe.name}{hint}: nothing was loaded\n" + "\n".join(problems)
        )
    model.load_state_dict({name: state[name] for name in wanted})


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
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    return dict(content) if isinstance(content, Mapping) else {}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _to_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names become ours; names of ours stay. A ``module.`` prefix of parallel training falls away."""
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if not any(name.startswith(_PUBLISHED_PREFIXES) for name in state):
        return state
    return {published_to_our_name(name): tensor for name, tensor in state.items()}


def published_to_our_name(name: str) -> str:
    """The name that an entry of a published checkpoint has in our detectors."""
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
