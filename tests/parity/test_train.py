"""One training step gives the published losses and gradient norms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bev_zoo import Targets, create_model, load_checkpoint
from bev_zoo.checkpoint import published_to_our_name

from .published import Published


@pytest.mark.parametrize("name", ["bevdet-r50", "bevdet-r50-cbgs"])
def test_losses_and_gradient_norms_agree(reference: Path, name: str) -> None:
    published = Published(reference, "train", name)
    model = create_model(name, input_size=published.input_size).train()
    load_checkpoint(model, published.checkpoint())
    targets = Targets(
        boxes=[torch.from_numpy(published.values["gt_boxes"])], labels=[torch.from_numpy(published.values["gt_labels"])]
    )

    losses = model.loss(published.images(), published.rig(), targets)
    sum(losses.values()).backward()

    wanted = {
        k.removeprefix("loss/"): float(published.values[k]) for k in published.values.files if k.startswith("loss/")
    }
    assert losses.keys() == wanted.keys()
    for term, value in wanted.items():
        assert losses[term].item() == pytest.approx(value, rel=1e-4), term

    parameters = dict(model.named_parameters())
    norms = zip(published.values["grad_names"].tolist(), published.values["grad_norms"].tolist(), strict=True)
    for key, norm in norms:
        gradient = parameters.pop(published_to_our_name(key)).grad
        assert gradient.norm().item() == pytest.approx(norm, rel=5e-3, abs=1e-6), key
    assert not parameters, "parameters the published system does not have"
