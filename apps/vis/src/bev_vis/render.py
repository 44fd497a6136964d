"""`bev-vis render`: frames as pictures and films."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bev_nuscenes.command_line import progress

from .compose import render_frame
from .compose_voxels import render_voxels
from .film import FILMS, open_film
from .options import RenderOptions, check_predictions
from .palette import palette_named
from .paths import check_writable
from .predictions import Predictions, open_predictions
from .selection import chosen_frames
from .source import Source, open_source

Pixels = NDArray[np.uint8]
_PICTURES = (".png", ".jpg", ".jpeg")
_FILM_WIDTH = {".mp4": 1920, ".gif": 960}


def render(options: RenderOptions) -> list[Path]:
    """Write the pictures or films and return what was written: files, or the folder of several pictures.

    Raises ValueError for what the user can put right.
    """
    _check(options)
    source = open_source(options.data)
    chosen = chosen_frames(source, sample=options.sample, samples=options.samples, scene=options.scene)
    out = _destination(options, source, chosen)
    predictions = open_predictions(options, source, options.layers)
    began = time.perf_counter()
    drawn = _draw_all(options, source, predictions, chosen)
    written = _write_films(options, out, source, chosen, drawn) if _is_film(out) else _write_pictures(out, drawn)
    seconds = time.perf_counter() - began
    print(f"{len(chosen)} frame{'s' * (len(chosen) > 1)}, {seconds / len(chosen):.2f} s per frame", file=sys.stderr)
    return written


def draw_frame(options: RenderOptions, source: Source, predictions: Predictions, position: int) -> Pixels:
    """One frame of the source's split, as the options want it (H,W,3)."""
    frame = source.frame(position, lidar=options.lidar)
    predicted, colours = predictions(position), palette_named(options.palette)
    if predicted.voxels is not None:
        if "heatmap" in options.layers:
            raise ValueError("--layers heatmap: this recipe predicts voxels and has none; leave it out")
        truth = source.occupancy(position)
        seen_only = not options.all_voxels
        return render_voxels(
            frame, predicted.voxels, truth, colours=colours, seen_only=seen_only, inner=predicted.inner
        )
    assert predicted.boxes is not None
    confident = predicted.boxes[predicted.boxes.score >= options.score_threshold]
    return render_frame(
        frame,
        confident,
        range_m=options.range,
        subtitle=f"score ≥ {options.score_threshold:g}",
        colours=colours,
        beside=options.beside,
        labels=options.labels,
        inner=predicted.inner,
    )


def _check(options: RenderOptions) -> None:
    check_predictions(options)
    if options.layers and options.checkpoint is None:
        raise ValueError(f"--layers {' '.join(options.layers)} looks into a model: give one with --checkpoint FILE")
    if not 0 < options.range <= 1000:
        raise ValueError(f"--range is half the side of the map, above 0 and at most 1000 m, it is {options.range:g}")
    if not 0 < options.fps <= 120:
        raise ValueError(f"--fps must be above 0 and at most 120, it is {options.fps:g}")
    if options.width is not None and not 64 <= options.width <= 16384:
        raise ValueError(f"--width must lie from 64 to 16384 pixels, it is {options.width}")


def _is_film(out: Path) -> bool:
    return out.suffix.lower() in FILMS


def _destination(options: RenderOptions, source: Source, chosen: range) -> Path:
    """A picture, a film, or a folder with an ending slash to come: known to be writable before a model runs."""
    out, single = options.out, len(chosen) == 1
    if out is None:
        first = chosen[0]
        scene = source.scenes[first]
        out = Path(f"{scene}_{source.tokens[first]}.png" if single else options.scene or f"{source.split}-frames")
    suffix = out.suffix.lower()
    if single and suffix not in (*_PICTURES, *FILMS) and not out.is_dir():
        raise ValueError(f"--out {out} must end in .png, .jpg, .mp4 or .gif")
    if not single and suffix in _PICTURES:
        raise ValueError(f"--out {out} is one picture, {len(chosen)} frames are to be drawn: name a folder or film")
    if suffix not in (*_PICTURES, *FILMS) or out.is_dir():
        check_writable(out)
        return out / f"{source.scenes[chosen[0]]}_{source.tokens[chosen[0]]}.png" if single else out
    check_writable(out.parent)
    if suffix == ".mp4":
        open_film(out, options.fps)  # says so if it cannot be written
    return out


def _draw_all(
    options: RenderOptions, source: Source, predictions: Predictions, chosen: range
) -> Iterator[tuple[str, Pixels]]:
    """Names and pictures of all frames, with a progress bar if there are several."""
    suffix = "" if options.out is None else options.out.suffix.lower()
    width = options.width or _FILM_WIDTH.get(suffix)
    tokens, scenes = source.tokens, source.scenes
    advance: Callable[[], object] = (lambda: None) if len(chosen) == 1 else progress(len(chosen), "drawing").update
    for number, position in enumerate(chosen):
        name = f"{scenes[position]}_{tokens[position]}" if len(chosen) == 1 else f"{number:04d}_{tokens[position]}"
        yield name, _scaled(draw_frame(options, source, predictions, position), width)
        advance()


def _scaled(pixels: Pixels, width: int | None) -> Pixels:
    if width is None or width == pixels.shape[1]:
        return pixels
    height = round(pixels.shape[0] * width / pixels.shape[1])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def _write_pictures(out: Path, drawn: Iterator[tuple[str, Pixels]]) -> list[Path]:
    for name, pixels in drawn:
        path = out if out.suffix.lower() in _PICTURES else out / f"{name}.png"
        options = {"quality": 92} if path.suffix.lower() != ".png" else {"compress_level": 3}
        Image.fromarray(pixels).save(path, **options)
    return [out]


def _write_films(
    options: RenderOptions, out: Path, source: Source, chosen: range, drawn: Iterator[tuple[str, Pixels]]
) -> list[Path]:
    """One film per scene: under the name that was given, or with the scene's added where there are several."""
    scenes = source.scenes[chosen.start : chosen.stop]
    several, written = len(set(scenes)) > 1, []
    for scene, part in groupby(zip(scenes, drawn, strict=True), key=lambda pair: pair[0]):
        written.append(out.with_name(f"{out.stem}_{scene}{out.suffix}") if several else out)
        with closing(open_film(written[-1], options.fps)) as film:
            for _, (_, pixels) in part:
                film.add(pixels)
    return written
