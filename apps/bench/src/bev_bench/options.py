"""What the commands can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bev_bench.settings import Precision, Setting, parse_setting
from bev_nuscenes import DataOptions

__all__ = [
    "GROUPS",
    "Backend",
    "CompareOptions",
    "DataBenchOptions",
    "EngineOptions",
    "ExportsOptions",
    "FlopsOptions",
    "Group",
    "LatencyOptions",
    "OpsOptions",
    "OutputOptions",
    "RunOptions",
    "SequentialOptions",
    "SystemOptions",
    "TrainBenchOptions",
    "ViewTransformOptions",
]

Backend = Literal["onnxruntime", "tensorrt"]
Group = Literal["pool", "stereo", "decode", "warp"]
GROUPS: tuple[Group, ...] = ("pool", "stereo", "decode", "warp")

# Options inside options keep their short names: --device, not --run.device.
_IN_FRONT = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where, how often, and where the result goes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What is measured; auto takes a GPU if there is one."""
    threads: int | None = None
    """Compute threads of the CPU; PyTorch's choice if left out."""
    repeats: int = 20
    """Rounds; in each everything that is compared is timed once."""
    warm_up: int = 3
    """Calls before the first round; two at least, and no more where a call takes long."""
    max_seconds: float = 60.0
    """Fewer rounds (at least three) where they would take longer than this, per group of things compared."""
    seed: int = 0
    """Of weights and inputs."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the report here, for bev-bench compare."""
    markdown: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the table here."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where the result goes."""

    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the report here, for bev-bench compare."""
    markdown: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the table here."""


@dataclass(frozen=True, kw_only=True)
class SystemOptions:
    """Which system, and at what size."""

    recipe: tyro.conf.Positional[str]
    """Recipe of the model, for instance bevdet-r50 or bevdet-tiny."""
    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights: model.safetensors of a run, or a published .pth. Without it they are drawn from the seed."""
    shape: Annotated[
        tuple[int, int] | None,
        tyro.conf.arg(metavar="H W", help_behavior_hint="(default: of the checkpoint, else of the recipe)"),
    ] = None
    """Height and width of the network input, pixels."""
    samples: int = 1
    """Samples per call."""
    boxes: int = 200
    """Without a checkpoint: candidates per sample, over all tasks, that score high enough to be decoded."""


@dataclass(frozen=True, kw_only=True)
class ExportsOptions:
    """Exported models, instead of the model in PyTorch or, with --checkpoint, after it."""

    model: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR ...")] = ()
    """Folders that bev-deploy wrote, several to compare."""
    backend: Annotated[Backend | None, tyro.conf.arg(help_behavior_hint="(default: onnxruntime)")] = None
    """What runs --model."""


@dataclass(frozen=True, kw_only=True)
class LatencyOptions:
    """Milliseconds of network and post-processing, frames per second and memory of one call with all frames.

    Several settings are measured in turns: --variants plain fuse fuse+channels-last+bf16. A variant joins, with +, any
    of fuse, channels-last, bf16 or fp16, compile, cuda-graph and no-plan-cache. Exported models (--model) take turns
    with them.
    """

    system: Annotated[SystemOptions, _IN_FRONT]
    exports: Annotated[ExportsOptions, _IN_FRONT] = field(default_factory=ExportsOptions)
    fuse: bool = False
    """Fold batch norm into the convolutions before it."""
    channels_last: bool = False
    """Keep the channels of a pixel next to each other in memory."""
    precision: Precision = "fp32"
    """Type of weights and activations."""
    compile: bool = False
    """Through torch.compile; compiling is part of the warm-up."""
    cuda_graph: bool = False
    """Record the kernels of a call once and replay them; GPU only."""
    plan_cache: Literal["on", "off"] = "on"
    """Build a pooling plan once per calibration, or in every call."""
    variants: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SETTING ...")] = ()
    """Settings to compare, instead of the one the options above describe."""
    run: Annotated[RunOptions, _IN_FRONT] = field(default_factory=RunOptions)

    def settings(self) -> list[Setting]:
        """What is compared in PyTorch, the reference first; nothing where only exported models are measured.

        Raises:
            ValueError: unknown words, a setting named twice, variants beside single options, or settings of PyTorch for
                exported models.
        """
        single = Setting(
            fuse=self.fuse,
            channels_last=self.channels_last,
            precision=self.precision,
            compile=self.compile,
            cuda_graph=self.cuda_graph,
            plan_cache=self.plan_cache == "on",
        )
        if self.exports.model and self.system.checkpoint is None:
            if single != Setting() or self.variants:
                raise ValueError("an exported model has no settings: give the --checkpoint that they are for, too")
            return []
        if not self.variants:
            return [single]
        if single != Setting():
            raise ValueError(f"--variants stands alone: write {single.name} as one of them")
        settings = [parse_setting(text) for text in self.variants]
        if len(set(settings)) < len(settings):
            raise ValueError(f"--variants names a setting twice: {' '.join(self.variants)}")
        return settings


@dataclass(frozen=True, kw_only=True)
class SequentialOptions:
    """Milliseconds per streamed frame, whether they grow with history, and against a call with all frames."""

    system: Annotated[SystemOptions, _IN_FRONT]
    exports: Annotated[ExportsOptions, _IN_FRONT] = field(default_factory=ExportsOptions)
    history: Annotated[
        tuple[int, ...], tyro.conf.arg(metavar="H ...", help_behavior_hint="(default: 1, the recipe's own, and 8)")
    ] = ()
    """Past frames kept, several to compare; with a checkpoint or an exported model only the recipe's own fits."""
    later: int = 20
    """Frames that the later stream has seen more."""
    run: Annotated[RunOptions, _IN_FRONT] = field(default_factory=RunOptions)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Milliseconds of one step of a TensorRT engine, and of a whole call with it."""

    folder: tyro.conf.Positional[Path]
    """Where bev-deploy build wrote the engine."""
    run: Annotated[RunOptions, _IN_FRONT] = field(default_factory=RunOptions)


@dataclass(frozen=True, kw_only=True)
class ViewTransformOptions:
    """Plan building, depth net, cost volume and pooling of one frame: milliseconds, and shares of the whole."""

    system: Annotated[SystemOptions, _IN_FRONT]
    run: Annotated[RunOptions, _IN_FRONT] = field(default_factory=RunOptions)


@dataclass(frozen=True, kw_only=True)
class OpsOptions:
    """Pooling, plan, stereo cost volume, suppression, decoding and warping against plain PyTorch.

    Sizes are those of the published systems with the geometry of a nuScenes-like rig, uniform and log-spaced bins.
    """

    quick: bool = False
    """Small sizes: shows that everything runs, says little about speed."""
    only: Annotated[tuple[Group, ...], tyro.conf.arg(metavar="{pool,stereo,decode,warp} ...")] = GROUPS
    """Which operators."""
    precision: Precision = "fp32"
    """Type of depth and context in pooling; everything else is computed in fp32."""
    run: Annotated[RunOptions, _IN_FRONT] = field(default_factory=RunOptions)


@dataclass(frozen=True, kw_only=True)
class FlopsOptions:
    """Floating-point operations of one sample with six cameras, per stage; nothing is run."""

    recipe: tyro.conf.Positional[str]
    """Recipe of the model."""
    shape: Annotated[
        tuple[int, int] | None, tyro.conf.arg(metavar="H W", help_behavior_hint="(default: of the recipe)")
    ] = None
    """Height and width of the network input, pixels."""
    run: Annotated[OutputOptions, _IN_FRONT] = field(default_factory=OutputOptions)


@dataclass(frozen=True, kw_only=True)
class DataBenchOptions:
    """Samples and images per second of the reading path, exact against fast images, and CPU time per sample."""

    recipe: tyro.conf.Positional[str]
    """Recipe whose input is made."""
    data: DataOptions
    shape: Annotated[
        tuple[int, int] | None, tyro.conf.arg(metavar="H W", help_behavior_hint="(default: of the recipe)")
    ] = None
    """Height and width of the network input, pixels."""
    training: bool = False
    """As training reads: augmented, with depth maps or occupancy where the recipe learns from them."""
    workers: tuple[int, ...] = (0,)
    """Loading processes, several to compare; 0 loads in the main process."""
    samples: int = 16
    """Samples per round; a split with fewer is read again and again."""
    batch_size: int = 1
    """Samples per batch."""
    run: Annotated[RunOptions, _IN_FRONT] = field(
        default_factory=lambda: RunOptions(device="cpu", repeats=5, warm_up=1)
    )


@dataclass(frozen=True, kw_only=True)
class TrainBenchOptions:
    """Samples per second, memory, and the split of a training step into forward, backward and optimiser."""

    recipe: tyro.conf.Positional[str]
    """Recipe of the model."""
    shape: Annotated[
        tuple[int, int] | None, tyro.conf.arg(metavar="H W", help_behavior_hint="(default: of the recipe)")
    ] = None
    """Height and width of the network input, pixels."""
    batch_size: int = 1
    """Samples per step."""
    precision: tuple[Precision, ...] = ("fp32",)
    """Autocast to this type, several to compare; fp16 scales the loss."""
    channels_last: bool = False
    """Keep the channels of a pixel next to each other in memory."""
    run: Annotated[RunOptions, _IN_FRONT] = field(default_factory=lambda: RunOptions(repeats=10, warm_up=2))


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Ratios of two reports, B over A, figure by figure.

    What two runs say of each other is weaker than what one run says that measures both in turns (latency --variants):
    the range beside a ratio is the widest that the quartiles of both allow.
    """

    first: tyro.conf.Positional[Path]
    """Report A, written by --json."""
    second: tyro.conf.Positional[Path]
    """Report B."""
    force: bool = False
    """Compare although the hardware differs."""
