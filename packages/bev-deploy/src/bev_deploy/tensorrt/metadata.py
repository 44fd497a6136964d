"""What stands beside an engine: on what it was built, from what, and for which sizes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bev_deploy.manifest import Manifest
from bev_deploy.tables import TableBounds

from .bindings import EngineError, Gpu

__all__ = ["ENGINE_NAME", "METADATA_NAME", "EngineMetadata", "PluginKind", "engine_metadata"]

ENGINE_NAME = "engine.plan"
METADATA_NAME = "engine.json"
_FORMAT = "bevkit-engine-1"
_AGAIN = "build it again with bev-deploy build"

# How an engine holds the pooling plugin: as code of its own, or as a call of this package.
PluginKind = Literal["ahead-of-time", "callback"]


@dataclass(frozen=True, kw_only=True)
class EngineMetadata:
    """An engine, as it was built. It lies beside ``engine.plan`` as ``engine.json``.

    Attributes:
        recipe: name of the recipe.
        gpu: name of the GPU.
        capability: its compute capability, such as "9.0".
        tensorrt: version.
        model: SHA-256 of the ONNX file.
        bounds: sizes of the pooling tables that it takes.
        max_batch: most samples per call.
        plugin: how it holds the pooling plugin; None for pooling in TensorRT's own layers.
        optimization_level: of the builder.
        tf32: whether float32 layers may multiply with 10 bits of mantissa.
        workspace_gib: GiB that a layer might use for scratch.
        build_seconds: how long it took.
    """

    recipe: str
    gpu: str
    capability: str
    tensorrt: str
    model: str
    bounds: TableBounds
    max_batch: int
    plugin: PluginKind | None
    optimization_level: int
    tf32: bool
    workspace_gib: float
    build_seconds: float

    def write(self, folder: Path) -> None:
        """Write ``engine.json``; it appears whole or not at all."""
        path = folder / METADATA_NAME
        partial = path.with_name(path.name + ".partial")
        content = {"format": _FORMAT, **dataclasses.asdict(self), "bounds": self.bounds._asdict()}
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(path)

    def check(self, manifest: Manifest, gpu: Gpu, tensorrt: str) -> None:
        """Compare it with the export, the GPU and the TensorRT that it is to run with.

        Raises:
            EngineError: it was built for others.
        """
        wanted = {
            "recipe": (self.recipe, manifest.recipe),
            "GPU": (self.gpu, gpu.name),
            "compute capability": (self.capability, gpu.capability),
            "TensorRT": (self.tensorrt, tensorrt),
            f"{manifest.model} with checksum": (self.model[:12], manifest.files[manifest.model][:12]),
            "table bounds": (tuple(self.bounds), tuple(manifest.bounds)),
        }
        other = [f"{what} {built}, and this is {here}" for what, (built, here) in wanted.items() if built != here]
        if other:
            raise EngineError(f"the engine was built for {'; '.join(other)}: {_AGAIN}")


def engine_metadata(folder: str | Path) -> EngineMetadata:
    """What ``engine.json`` of a folder says.

    Raises:
        EngineError: there is no engine, or the file is broken.
    """
    path = Path(folder) / METADATA_NAME
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != _FORMAT:
            raise KeyError("format")
        return EngineMetadata(**{**content, "bounds": TableBounds(**content["bounds"])})
    except FileNotFoundError:
        raise EngineError(f"{folder} holds no engine: build one with bev-deploy build") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{path} is broken ({error!r}): {_AGAIN}") from None
