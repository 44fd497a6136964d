"""What stands beside an exported model: everything a program needs to feed it and to understand what it gives."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bev_zoo import Recipe, get_recipe

from .signature import TensorSpec
from .step import Pooling, Precision
from .tables import TableBounds

__all__ = ["MANIFEST_NAME", "Manifest", "ManifestError", "sha256_of"]

MANIFEST_NAME = "manifest.json"
_FORMAT = "bevkit-deploy-1"


class ManifestError(ValueError):
    """A folder that holds no exported model, a broken one, or one of another format."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a camera image to the network input.

    Attributes:
        in_graph: the model takes uint8 images and does all of this itself.
        raw_size: width and height of the camera images that ``resized`` and ``crop`` hold for, pixels.
        resized: width and height after the resize (bicubic).
        crop: left, top, right, bottom in resized pixels.
        image_aug: 3x3, raw pixel to network-input pixel.
        mean, deviation: of the input's channels, in their order, after the channels were swapped from RGB.
    """

    in_graph: bool
    raw_size: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int, int, int]
    image_aug: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """An exported model. It lies beside the model's file as ``manifest.json``.

    Attributes:
        recipe: name of the recipe.
        task: "detection" or "occupancy".
        input_size: height and width of the network input, pixels.
        align: "during" or "after" the view transform, for calls with whole sequences.
        classes: names, by label.
        cameras: N.
        batch: B, or None for any number.
        pool: "native" or "plugin".
        precision: "fp32" or "fp16".
        raw: the outputs are the head's own.
        quantized: int8 convolutions.
        opset: ONNX operator set.
        model: file name of the ONNX file.
        files: SHA-256 of every file of the model.
        inputs, outputs: in order.
        state: by output, the input that takes it at the next step.
        bounds: largest pooling tables that engines are built for.
        typical: sizes of the pooling tables of the rig it was exported with.
        preprocessing: from a camera image to ``images``.
        postprocessing: from candidates to boxes: thresholds, range and suppression of :class:`bev_heads.DecodeOptions`;
            None for occupancy.
        grid: lower, upper, step in metres of x, y, z.
        stride: network-input pixels per feature pixel that is lifted.
        depths: of the depth bins, metres.
        checkpoint: SHA-256 of the checkpoint, or None for fresh weights.
        versions: of the programs that made it.
    """

    recipe: str
    task: str
    input_size: tuple[int, int]
    align: str
    classes: tuple[str, ...]
    cameras: int
    batch: int | None
    pool: Pooling
    precision: Precision
    raw: bool
    quantized: bool
    opset: int
    model: str
    files: dict[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: dict[str, str]
    bounds: TableBounds
    typical: TableBounds
    preprocessing: Preprocessing
    postprocessing: dict[str, Any] | None
    grid: dict[str, tuple[float, float, float]]
    stride: int
    depths: tuple[float, ...]
    checkpoint: str | None
    versions: dict[str, str]

    def recipe_at_size(self) -> Recipe:
        """The recipe, as it was exported."""
        recipe = get_recipe(self.recipe)
        temporal = dataclasses.replace(recipe.temporal, align=self.align)
        return dataclasses.replace(recipe, input_size=self.input_size, temporal=temporal)

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``; it appears whole or not at all."""
        path = folder / MANIFEST_NAME
        partial = path.with_name(path.name + ".partial")
        content = {"format": _FORMAT, **dataclasses.asdict(self)}
        content |= {"bounds": self.bounds._asdict(), "typical": self.typical._asdict()}
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(path)

    @classmethod
    def read(cls, folder: str | Path, *, verify: bool = True) -> Manifest:
        """The manifest of a folder.

        Args:
            folder: what ``bev-deploy export`` wrote.
            verify: compare the files with their checksums.

        Raises:
            ManifestError: there is none, it cannot be read, or a file is missing or was changed.
        """
        folder = Path(folder)
        try:
            content = json.loads((folder / MANIFEST_NAME).read_text())
        except FileNotFoundError:
            raise ManifestError(
                f"{folder} holds no {MANIFEST_NAME}: give the folder that bev-deploy export wrote"
            ) from None
        except (OSError, ValueError) as error:
            raise ManifestError(f"{folder / MANIFEST_NAME} cannot be read ({error}): export the model again") from None
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise ManifestError(f"{folder / MANIFEST_NAME} is not of format {_FORMAT}: export the model again")
        manifest = _from_json(content, folder)
        if verify:
            manifest.verify(folder)
        return manifest

    def verify(self, folder: Path) -> None:
        """Compare the files with their checksums.

        Raises:
            ManifestError: a file is missing or was changed.
        """
        for name, wanted in self.files.items():
            path = folder / name
            if not path.is_file():
                raise ManifestError(f"{path} is missing: copy the whole folder, or export the model again")
            if sha256_of(path) != wanted:
                raise ManifestError(f"{path} is not the file that was exported (checksum differs): export it again")


def sha256_of(path: str | Path) -> str:
    """Checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _from_json(content: dict[str, Any], folder: Path) -> Manifest:
    try:
        content["inputs"], content["outputs"] = (
            tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in content[side])
            for side in ("inputs", "outputs")
        )
        content["bounds"], content["typical"] = (TableBounds(**content[name]) for name in ("bounds", "typical"))
        content["preprocessing"] = Preprocessing(**{k: _tuples(v) for k, v in content["preprocessing"].items()})
        content |= {name: _tuples(content[name]) for name in ("input_size", "classes", "depths")}
        content["grid"] = {name: tuple(values) for name, values in content["grid"].items()}
        return Manifest(**content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{folder / MANIFEST_NAME} is broken ({error!r}): export the model again") from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
