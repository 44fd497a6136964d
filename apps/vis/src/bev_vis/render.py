"""`bev-vis render`: one frame as a picture."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

import tyro
from PIL import Image

from bev_nuscenes import DataOptions

from .compose import render_frame
from .frame import Boxes
from .source import Source, open_source
from .submission import boxes_of_sample, read_submission


@dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """Draw one frame: six cameras with projected boxes beside the map from above, predicted and true.

    Predictions come from RESULTS, or from a model that is run on the spot: --checkpoint, or an exported one: --model.
    """

    data: DataOptions
    results: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RESULTS.json]")] = None
    """Predictions: a nuScenes submission, as bev-eval writes it."""

    recipe: str | None = None
    """Predict with this recipe instead of reading results; default: the one that --checkpoint or --model names."""

    checkpoint: Path | None = None
    """Predict with these weights instead of reading results."""

    model: Path | None = None
    """Predict with an exported model instead of reading results: the folder that bev-deploy wrote."""

    backend: Annotated[
        Literal["onnxruntime", "tensorrt"] | None, tyro.conf.arg(help_behavior_hint="(default: onnxruntime)")
    ] = None
    """What runs --model."""

    device: str = "cpu"
    """Where a model runs: cpu, cuda, cuda:1."""

    sample: str = "0"
    """Which frame of the split: its position, from 0, or its sample token."""

    out: Path | None = None
    """Picture to write (.png or .jpg); default: SCENE_TOKEN.png in the current folder."""

    score_threshold: float = 0.3
    """Predictions that score less are left out, 0 to 1."""

    range: float = 51.2
    """Half the side of the map, in metres; boxes outside are left out, also in the camera views."""

    lidar: bool = True
    """Draw the LiDAR points on the map, where the data set has them."""


def render(options: RenderOptions) -> Path:
    """Write the picture and return its path. Raises ValueError for what the user can put right."""
    _check(options)
    results = None if options.results is None else read_submission(options.results)
    source = open_source(options.data)
    position = find_sample(options.sample, source.tokens, source.split)
    frame = source.frame(position, lidar=options.lidar)
    out = _writable(options.out or Path(f"{frame.scene}_{frame.token}.png"))
    predictions = _predict(options, source, position) if results is None else boxes_of_sample(results, frame.token)
    confident = predictions[predictions.score >= options.score_threshold]
    subtitle = f"score ≥ {options.score_threshold:g}"
    pixels = render_frame(frame, confident, range_m=options.range, subtitle=subtitle)
    Image.fromarray(pixels).save(out, compress_level=3)
    return out


def find_sample(wanted: str, tokens: Sequence[str], split: str) -> int:
    """The position of a sample that is given by its position or its token."""
    if wanted in tokens:
        return tokens.index(wanted)
    if not tokens:
        raise ValueError(f"split {split} has no sample in this data set: choose another --data.split")
    if wanted.lstrip("-").isdigit() and len(wanted) < 9:
        if 0 <= int(wanted) < len(tokens):
            return int(wanted)
        raise ValueError(f"--sample {wanted} is out of range: {split} has the samples 0 to {len(tokens) - 1}")
    near = (get_close_matches(wanted, tokens, n=1, cutoff=0.6) or list(tokens))[0]
    raise ValueError(
        f"--sample {wanted} is not in {split}: give a place, 0 to {len(tokens) - 1}, or a token, for example {near}"
    )


def _check(options: RenderOptions) -> None:
    sources = {"RESULTS": options.results, "--checkpoint": options.checkpoint, "--model": options.model}
    given = [name for name, path in sources.items() if path is not None]
    if not given:
        raise ValueError(
            "nothing to draw: give RESULTS.json, or a model to run: --recipe NAME --checkpoint FILE, or --model DIR"
        )
    if len(given) > 1 or (options.results is not None and options.recipe is not None):
        raise ValueError("RESULTS, --recipe/--checkpoint and --model exclude each other: give the one to draw")
    if options.backend is not None and options.model is None:
        raise ValueError(f"--backend {options.backend} runs exported models: give one with --model DIR")
    if not options.range > 0:
        raise ValueError(f"--range is half the side of the map in metres and must be above 0, it is {options.range:g}")
    if not 0 <= options.score_threshold <= 1:
        raise ValueError(f"--score-threshold must lie from 0 to 1, it is {options.score_threshold:g}")


def _writable(out: Path) -> Path:
    """The path, once its folder exists and takes files: known before a model runs for a minute."""
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"--out {out} must end in .png or .jpg")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ValueError(f"picture {out} cannot be written ({error.strerror}): choose another --out") from None
    return out


def _predict(options: RenderOptions, source: Source, position: int) -> Boxes:
    from .predict import predict, predict_exported  # loads the models, which a picture of finished results needs not

    if options.model is not None:
        backend = options.backend or "onnxruntime"
        return predict_exported(source, position, options.recipe, options.model, backend, options.device)
    assert options.checkpoint is not None
    return predict(source, position, options.recipe, options.checkpoint, options.device)
