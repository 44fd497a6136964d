"""From an export to a TensorRT engine for the GPU of this machine."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import onnx

from bev_deploy.manifest import Manifest
from bev_deploy.plugin_node import without_plugin_body
from bev_deploy.signature import TensorSpec
from bev_deploy.tables import TRACED_SAMPLES, TableBounds

from .bindings import EngineError, current_gpu, import_tensorrt
from .metadata import ENGINE_NAME, METADATA_NAME, EngineMetadata, PluginKind
from .plugin import register_plugin

__all__ = ["TIMING_CACHE_NAME", "BuildOptions", "build_engine", "profile_shapes"]

TIMING_CACHE_NAME = "timing.cache"
_LEAST_TABLE = 2  # exporters take sizes of 0 and 1 for constants
_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How an engine is built.

    Args:
        workspace_gib: GiB of GPU memory that a layer may use for scratch.
        optimization_level: 0 (built fast) to 5 (searched long).
        max_batch: most samples per call, for an export that takes any number; others have theirs.
        timing_cache: file of measured times, read and written; ``timing.cache`` beside the engine if None.
        plugin: for an export with ``pool="plugin"``: "ahead-of-time" puts the kernel into the engine, "callback" leaves
            it in this package, which the engine then calls.
        tf32: let float32 layers multiply with 10 bits of mantissa, which is faster: errors of about 1e-3.
        verbose: everything that TensorRT has to say.
    """

    workspace_gib: float = 4.0
    optimization_level: int = 3
    max_batch: int = 2
    timing_cache: Path | None = None
    plugin: PluginKind = "ahead-of-time"
    tf32: bool = False
    verbose: bool = False

    def check(self) -> None:
        """Raises :class:`EngineError` for values out of range."""
        if self.workspace_gib <= 0:
            raise EngineError(f"workspace_gib must be above 0, got {self.workspace_gib}")
        if self.optimization_level not in range(6):
            raise EngineError(f"optimization_level must be 0 to 5, got {self.optimization_level}")
        if self.max_batch < 1:
            raise EngineError(f"max_batch must be at least 1, got {self.max_batch}")
        if self.plugin not in get_args(PluginKind):
            raise EngineError(f"plugin must be one of {', '.join(get_args(PluginKind))}, got {self.plugin!r}")


def build_engine(folder: str | Path, options: BuildOptions | None = None) -> EngineMetadata:
    """Write ``engine.plan`` and ``engine.json`` beside the manifest; an earlier engine is replaced when all is done.

    The network is strongly typed: precision is that of the ONNX file, in every layer. Pooling tables may have any size
    up to the manifest's bounds; the engine is tuned for the bounds themselves, which :class:`EngineSession` pads to.

    Args:
        folder: of an export.
        options: see :class:`BuildOptions`.

    Raises:
        ManifestError: no export there, or a changed one.
        EngineError: no GPU, no TensorRT, or TensorRT refuses the model.
    """
    folder, options = Path(folder), options or BuildOptions()
    manifest = Manifest.read(folder)
    options.check()
    _warn_of_small_tables(manifest, options.max_batch)
    gpu = current_gpu()
    tensorrt = import_tensorrt()
    began = time.monotonic()
    plan = _plan(tensorrt, folder, manifest, options)
    metadata = EngineMetadata(
        recipe=manifest.recipe,
        gpu=gpu.name,
        capability=gpu.capability,
        tensorrt=tensorrt.__version__,
        model=manifest.files[manifest.model],
        bounds=manifest.bounds,
        max_batch=manifest.batch or options.max_batch,
        plugin=options.plugin if manifest.pool == "plugin" else None,
        optimization_level=options.optimization_level,
        tf32=options.tf32,
        workspace_gib=options.workspace_gib,
        build_seconds=round(time.monotonic() - began, 1),
    )
    (folder / METADATA_NAME).unlink(missing_ok=True)  # it does not hold for the new engine
    _write(plan, folder / ENGINE_NAME)
    metadata.write(folder)
    return metadata


def profile_shapes(
    manifest: Manifest, max_batch: int
) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Name and least, usual and largest shape of every input whose sizes may change."""
    most_batch = manifest.batch or max_batch
    least = TableBounds(*[_LEAST_TABLE] * len(TableBounds._fields))
    for spec in manifest.inputs:
        if any(isinstance(size, str) for size in spec.shape):
            smallest, largest = _shape(spec, least, 1), _shape(spec, manifest.bounds, most_batch)
            yield spec.name, smallest, largest, largest


def _shape(spec: TensorSpec, bounds: TableBounds, batch: int) -> tuple[int, ...]:
    values = {**bounds._asdict(), "batch": batch}
    return tuple(_size(size, values) for size in spec.shape)


def _size(size: int | str, values: dict[str, int]) -> int:
    """A number, a name, or a name times a number such as "batch*6"."""
    if isinstance(size, int):
        return size
    name, _, factor = size.partition("*")
    return values[name] * int(factor or 1)


def _warn_of_small_tables(manifest: Manifest, max_batch: int) -> None:
    """Tables grow with the samples: those of an export of any batch were measured on a few."""
    samples = TRACED_SAMPLES * manifest.bounds.points // manifest.typical.points
    if manifest.batch is None and max_batch > samples:
        warnings.warn(
            f"this export has pooling tables for {samples} samples of cameras like those it was made for, max_batch is "
            f"{max_batch}: export it with --table-margin {max_batch / TRACED_SAMPLES:g}",
            stacklevel=3,
        )


def _plan(tensorrt: ModuleType, folder: Path, manifest: Manifest, options: BuildOptions) -> Any:
    """The engine, as TensorRT's memory."""
    logger = tensorrt.Logger(tensorrt.Logger.VERBOSE if options.verbose else tensorrt.Logger.WARNING)
    tensorrt.init_libnvinfer_plugins(logger, "")
    builder = tensorrt.Builder(logger)
    cache_path = options.timing_cache or folder / TIMING_CACHE_NAME
    cache_path.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of building
    plugin = options.plugin if manifest.pool == "plugin" else None
    network, parser = _network(tensorrt, builder, logger, folder / manifest.model, plugin)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, int(options.workspace_gib * _GIB))
    config.builder_optimization_level = options.optimization_level
    if not options.tf32:
        config.clear_flag(tensorrt.BuilderFlag.TF32)  # it is set at first
    _add_profile(builder, config, manifest, options.max_batch)
    cache = _timing_cache(config, cache_path)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"TensorRT could not build an engine from {folder / manifest.model}: its own messages say why"
        )
    _write(config.get_timing_cache().serialize(), cache_path)
    del cache, parser  # TensorRT wants them to live as long as the building
    return plan


def _network(
    tensorrt: ModuleType, builder: Any, logger: Any, model: Path, plugin: PluginKind | None
) -> tuple[Any, Any]:
    flags = tensorrt.NetworkDefinitionCreationFlag
    chosen = 1 << int(flags.STRONGLY_TYPED)
    content = model.read_bytes()
    if plugin is not None:
        register_plugin(tensorrt)
        prefer = flags.PREFER_AOT_PYTHON_PLUGINS if plugin == "ahead-of-time" else flags.PREFER_JIT_PYTHON_PLUGINS
        chosen |= 1 << int(prefer)
        content = without_plugin_body(onnx.load_from_string(content)).SerializeToString()
    network = builder.create_network(chosen)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(content):
        errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        raise EngineError(f"TensorRT cannot read {model}: {'; '.join(errors)}")
    return network, parser


def _parser_error(error: Any) -> str:
    return " ".join(f"{error.node_operator()} {error.node_name()}: {error.desc()}".split())


def _add_profile(builder: Any, config: Any, manifest: Manifest, max_batch: int) -> None:
    profile = builder.create_optimization_profile()
    for name, smallest, usual, largest in profile_shapes(manifest, max_batch):
        profile.set_shape(name, smallest, usual, largest)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError("TensorRT refuses the sizes of the pooling tables: its own messages say why")


def _timing_cache(config: Any, path: Path) -> Any:
    """Attach the times of a file; if they are of another GPU or version, none."""
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _write(content: Any, path: Path) -> None:
    """Bytes or TensorRT's memory; the file appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
    partial.replace(path)
