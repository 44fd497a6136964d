"""`bev-vis view`: look around in a frame."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bev_nuscenes import CLASSES, OCCUPANCY_CLASSES

from .geometry import Array
from .matching import ERROR_THRESHOLD_M, frame_scores, match
from .objects import objects_of_frame
from .options import PredictionOptions, ViewOptions, check_predictions
from .palette import Colour, Palette, palette_named
from .paths import check_writable
from .predictions import Prediction, Predictions, open_predictions
from .scene import Scene3d, build_scene
from .selection import chosen_frames
from .source import Source, open_source

STEP = 0.05
"""How far a key moves the score threshold."""
LAYERS = ("points", "predictions", "truth", "voxels", "cameras", "ground", "trajectory", "heatmap")


@dataclass
class Browser:
    """Where somebody is in a split, and what of a frame is shown; knows no window."""

    source: Source
    predictions: Predictions
    place: int
    score_threshold: float
    colours: Palette
    lidar: bool = True
    instant: bool = True  # predictions of any frame are at hand; else those of frames that were visited are kept
    hidden: set[str] = field(default_factory=set)
    _predicted: dict[int, Prediction] = field(default_factory=dict)
    _scores: dict[tuple[int, float], float] = field(default_factory=dict)
    _rank: int = 0

    def scene(self) -> Scene3d:
        """The shapes of the current frame, without the layers that are hidden."""
        predicted = self._prediction(self.place)
        boxes = predicted.boxes
        scene = build_scene(
            self.source.frame(self.place, lidar=self.lidar),
            None if boxes is None else boxes[boxes.score >= self.score_threshold],
            predicted.voxels,
            self._trajectory(),
            self.colours,
            images="cameras" not in self.hidden,
            heatmap=predicted.inner.heatmap if predicted.inner is not None else None,
        )
        layers = tuple(layer for layer in scene.layers if layer.name not in self.hidden)
        without = [f"hidden: {', '.join(name for name in LAYERS if name in self.hidden)}"] if self.hidden else []
        return Scene3d(layers=layers, messages=(*scene.messages, *without))

    @property
    def title(self) -> str:
        """What the current frame is."""
        total, scene = len(self.source.tokens), self.source.scenes[self.place]
        return f"{scene}   sample {self.place} of {total}   score ≥ {self.score_threshold:.2f}"

    def legend(self) -> list[tuple[str, Colour]]:
        """Names and colours of the classes that the current frame can have."""
        if self._prediction(self.place).voxels is None:
            return list(zip(CLASSES, self.colours.classes, strict=True))
        return list(zip(OCCUPANCY_CLASSES, self.colours.voxels, strict=False))  # free has no colour

    def step(self, frames: int) -> None:
        """Go some frames on, or back; stops at the ends of the split."""
        self.place = min(max(self.place + frames, 0), len(self.source.tokens) - 1)

    def step_scene(self, scenes: int) -> None:
        """Go to the first frame of the next scene, or of the one before."""
        names = self.source.scenes
        starts = [place for place, name in enumerate(names) if place == 0 or names[place - 1] != name]
        here = max(number for number, start in enumerate(starts) if start <= self.place)
        self.place = starts[min(max(here + scenes, 0), len(starts) - 1)]

    def toggle(self, layer: str) -> None:
        """Show a layer or hide it."""
        self.hidden ^= {layer}

    def change_threshold(self, steps: int) -> None:
        """Raise or lower the score threshold, from 0 to 1."""
        self.score_threshold = round(min(max(self.score_threshold + steps * STEP, 0.0), 1.0), 6)

    def next_worst(self) -> None:
        """Go to the worst frame, and with every further call to the next worst; voxels have no such order."""
        worst = self._worst()
        if worst:
            self.place = worst[self._rank % len(worst)]
            self._rank += 1

    def _prediction(self, place: int) -> Prediction:
        if self.instant:
            return self.predictions(place)
        if place not in self._predicted:
            self._predicted[place] = self.predictions(place)
        return self._predicted[place]

    def _trajectory(self) -> Array:
        """Where the vehicle was at the frames of the scene (K,3), global."""
        names, here = self.source.scenes, self.source.scenes[self.place]
        return np.array([self.source.lidar_origin(place) for place, name in enumerate(names) if name == here])

    def _worst(self) -> list[int]:
        """Frames, the worst first; with a model those that were visited, or it would run for an hour."""
        if self._prediction(self.place).boxes is None:
            return []
        places = range(len(self.source.tokens)) if self.instant else sorted(self._predicted)
        scores = {place: self._score(place) for place in places}
        return sorted((place for place, score in scores.items() if not np.isnan(score)), key=lambda p: scores[p])

    def _score(self, place: int) -> float:
        known = (place, self.score_threshold)
        if known not in self._scores:
            boxes = self._prediction(place).boxes
            assert boxes is not None
            predicted, true = objects_of_frame(self.source, boxes[boxes.score >= self.score_threshold], place)
            self._scores[known] = float(frame_scores(match(predicted, true, ERROR_THRESHOLD_M), place + 1)[place])
        return self._scores[known]


def view(options: ViewOptions) -> list[Path]:
    """Open a window, or write a picture of one view and return its path.

    Raises ValueError for what the user can put right, among it a missing open3d.
    """
    check_predictions(options)
    shot = options.screenshot
    if shot is not None and shot.suffix.lower() != ".png":
        raise ValueError(f"--screenshot {shot} must end in .png")
    if shot is not None:
        check_writable(shot.parent)
    from .window import Window  # needs open3d

    browser, _ = open_browser(options)
    window = Window(browser, visible=shot is None)
    if shot is None:
        window.run()
        return []
    window.write(shot)
    return [shot]


def open_browser(options: PredictionOptions, samples: str | None = None) -> tuple[Browser, range]:
    """A browser at the first of the frames that the options mean, and the places of all of them.

    Raises ValueError for what the user can put right.
    """
    source = open_source(options.data)
    chosen = chosen_frames(source, sample=options.sample, samples=samples, scene=options.scene)
    browser = Browser(
        source=source,
        predictions=open_predictions(options, source, ("heatmap",)),
        place=chosen[0],
        score_threshold=options.score_threshold,
        colours=palette_named(options.palette),
        lidar=options.lidar,
        instant=options.results is not None,
    )
    return browser, chosen


def say(text: str) -> None:
    """Tell the user something beside the window."""
    print(f"bev-vis: {text}", file=sys.stderr)
