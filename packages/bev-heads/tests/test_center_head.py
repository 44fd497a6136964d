"""The head as a module: shapes, initial weights, training, mixed precision, compile and export, bad input."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from bev_heads import CenterHead, CenterLossOptions, CenterOutput, DecodeOptions, NmsOptions
from bev_ops import BevGrid

TASK_LISTS = {
    "one task": (("car", "bus", "bicycle"),),
    "three tasks": (("car",), ("bus", "truck"), ("bicycle",)),
}
BOXES = torch.tensor(
    [[1.3, -0.9, 0.7, 4.0, 2.0, 1.5, 2.5, -3.0, 0.4], [-2.0, 2.0, -1.0, 0.5, 0.6, 1.7, -1.0, 1.0, 0.0]]
)
LABELS = torch.tensor([2, 0])


def small_head(
    grid: BevGrid, tasks: Sequence[Sequence[str]] = TASK_LISTS["three tasks"], **settings: object
) -> CenterHead:
    torch.manual_seed(0)
    return CenterHead(6, tasks, grid, shared_channels=8, head_channels=8, **settings)


def bev_feature(samples: int = 2, channels: int = 6) -> Tensor:
    return torch.randn(samples, channels, 12, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tasks", TASK_LISTS.values(), ids=TASK_LISTS)
@pytest.mark.parametrize("convs", [1, 2, 3])
def test_predictions_of_every_task(small_grid: BevGrid, tasks: tuple[tuple[str, ...], ...], convs: int) -> None:
    outputs = small_head(small_grid, tasks, convs_per_branch=convs)(bev_feature())
    assert len(outputs) == len(tasks)
    for output, classes in zip(outputs, tasks, strict=True):
        channels = CenterOutput(len(classes), 2, 1, 3, 2, 2)
        assert [plane.shape for plane in output] == [(2, c, 12, 16) for c in channels]


def test_initial_weights(small_grid: BevGrid) -> None:
    torch.manual_seed(0)
    head = CenterHead(256, [["car", "bus"]], small_grid, heatmap_bias=-3.0)
    for name, module in head.named_modules():
        if isinstance(module, nn.Conv2d):
            deviation = (2 / (module.out_channels * 9)) ** 0.5
            assert module.weight.std().item() == pytest.approx(deviation, rel=0.15), name
            wanted = -3.0 if name == "task_heads.0.heatmap.1" else 0.0
            assert module.bias is None or module.bias.eq(wanted).all(), name


def test_classes_are_those_of_the_tasks_one_after_another(small_grid: BevGrid) -> None:
    head = small_head(small_grid)
    assert head.classes == ("car", "bus", "truck", "bicycle")
    assert head.classes_per_task == (1, 2, 1)


@pytest.mark.parametrize(
    "tasks",
    [
        pytest.param(tasks, id=name, marks=() if len(tasks) > 1 else pytest.mark.slow)
        for name, tasks in TASK_LISTS.items()
    ],
)
def test_training_finds_the_boxes(
    small_grid: BevGrid, tasks: tuple[tuple[str, ...], ...], device: torch.device
) -> None:
    """Fits two boxes in a fixed feature; decoding must then return these, and nothing else of some certainty."""
    head = small_head(small_grid, tasks, loss_options=CenterLossOptions(code_weights=(1.0,) * 10)).to(device)
    bev = bev_feature(samples=1).to(device)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.01, total_iters=120)
    for _ in range(120):
        optimizer.zero_grad()
        sum(head.loss(head(bev), [BOXES], [LABELS]).values()).backward()
        optimizer.step()
        schedule.step()
    (found,) = head.decode(head(bev))
    found = found[found.scores > 0.5].to("cpu")
    order = found.labels.argsort(descending=True)
    assert found.labels[order].tolist() == LABELS.tolist()
    torch.testing.assert_close(found.boxes[order], BOXES, atol=0.1, rtol=0)


def test_gradients_reach_every_parameter(small_grid: BevGrid) -> None:
    head = small_head(small_grid, TASK_LISTS["one task"])
    # One box only: the signs that two boxes send to a bias can cancel.
    sum(head.loss(head(bev_feature()), [BOXES[:1], BOXES[:0]], [LABELS[:1], LABELS[:0]]).values()).backward()
    assert [name for name, parameter in head.named_parameters() if not parameter.grad.any()] == []


def test_a_batch_without_boxes_trains(small_grid: BevGrid) -> None:
    head = small_head(small_grid)
    losses = head.loss(head(bev_feature()), [BOXES[:0]] * 2, [LABELS[:0]] * 2)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_mixed_precision(small_grid: BevGrid, device: torch.device) -> None:
    head = small_head(small_grid).to(device)
    bev = bev_feature().to(device)
    wanted = head.loss(head(bev), [BOXES] * 2, [LABELS] * 2)
    with torch.autocast(device.type, torch.bfloat16):
        outputs = head(bev)
        losses = head.loss(outputs, [BOXES] * 2, [LABELS] * 2)
    assert outputs[0].heatmap.dtype == torch.bfloat16
    for key, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(wanted[key].item(), rel=0.03), key
    assert head.decode(outputs)[0].boxes.dtype == torch.float32


def test_compiles_in_one_graph(small_grid: BevGrid) -> None:
    head = small_head(small_grid)
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    for ours, wanted in zip(compiled(bev_feature()), head(bev_feature()), strict=True):
        torch.testing.assert_close(tuple(ours), tuple(wanted))


def test_exports_with_any_batch_size(small_grid: BevGrid) -> None:
    head = small_head(small_grid).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(head, (bev_feature(),), dynamic_shapes=({0: batch},))
    for ours, wanted in zip(program.module()(bev_feature(samples=3)), head(bev_feature(samples=3)), strict=True):
        torch.testing.assert_close(tuple(ours), tuple(wanted))


@pytest.mark.parametrize(
    "shape", [(2, 5, 12, 16), (2, 6, 16, 12), (6, 12, 16)], ids=["channels", "swapped axes", "no batch"]
)
def test_refuses_a_feature_it_was_not_built_for(small_grid: BevGrid, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(B, 6, 12, 16\).*got \(" + ", ".join(map(str, shape))):
        small_head(small_grid)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([BOXES], [LABELS], "one tensor per sample, 2 for this batch; got 1"),
        ([BOXES, BOXES[:, :7]], [LABELS, LABELS], r"boxes of sample 1 must be \(M, 9\)"),
        ([BOXES, BOXES], [LABELS, LABELS + 2], r"labels must lie in 0\.\.3.*got \[4\]"),
        ([BOXES, BOXES * float("nan")], [LABELS, LABELS], "boxes must hold finite numbers"),
    ],
)
def test_refuses_bad_ground_truth(small_grid: BevGrid, boxes: list[Tensor], labels: list[Tensor], message: str) -> None:
    head = small_head(small_grid)
    with pytest.raises(ValueError, match=message):
        head.loss(head(bev_feature()), boxes, labels)


@pytest.mark.parametrize(
    ("tasks", "settings", "message"),
    [
        ((), {}, "at least one task"),
        ((("car",), ()), {}, "at least one class each"),
        ((("car",), ("bus", "car")), {}, "repeated: car"),
        ((("car",),), {"convs_per_branch": 0}, "convs_per_branch must be at least 1"),
        ((("car",),), {"decode_options": DecodeOptions(nms=(NmsOptions(),) * 2)}, "nms must hold 1 or 1"),
    ],
)
def test_refuses_settings_that_do_not_fit(small_grid: BevGrid, tasks: tuple, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_head(small_grid, tasks, **settings)
