"""Exports that several tests look at: made once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from bev_deploy import DeployedDetector, ExportOptions, export_model, load
from bev_deploy.compare import draw_statistics
from bev_deploy.preprocess import ImagePreprocessing
from bev_deploy.step import Step
from bev_zoo import Detector, create_model


class Exported(NamedTuple):
    """A detector with drawn weights, and what became of it."""

    model: Detector
    folder: Path
    options: ExportOptions = ExportOptions()

    def step(self) -> Step:
        """The graph before its export."""
        chosen, recipe = self.options, self.model.recipe
        preprocessing = ImagePreprocessing(chosen.raw_size, recipe.input_size, recipe.image_augmentation)
        return Step(
            self.model,
            precision=chosen.precision,
            pool=chosen.pool,
            raw=chosen.raw,
            preprocessing=preprocessing if chosen.preprocess else None,
        )

    def load(self) -> DeployedDetector:
        return load(self.folder)


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    """Small graphs are slower on more."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session", autouse=True)
def no_trace_logs() -> None:
    """pytest collects every message, and torch.export writes thousands."""
    logging.getLogger("torch.__trace").setLevel(logging.CRITICAL)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """Export a recipe with some options; the same call again gives the same export."""

    @cache
    def export(
        name: str, input_size: tuple[int, int] | None = None, *, align: str | None = None, **options: object
    ) -> Exported:
        torch.manual_seed(0)
        model = create_model(name, input_size=input_size, align=align).eval()
        draw_statistics(model)
        folder = tmp_path_factory.mktemp(name)
        export_model(model, folder, ExportOptions(**options))
        return Exported(model, folder, ExportOptions(**options))

    return export
