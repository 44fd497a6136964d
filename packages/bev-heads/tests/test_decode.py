"""Raw predictions become the boxes they say, and each suppression rule does what its option promises."""

import math

import pytest
import torch
from torch import Tensor

from bev_heads import (
    CenterOutput,
    DecodeOptions,
    Detections,
    NmsOptions,
    decode_boxes,
    decode_centers,
    encode_boxes,
)
from bev_ops import BevGrid

KEEP_ALL = NmsOptions(kind="circle", radius=0.0)


def output_of(boxes: Tensor, labels: list[int], scores: list[float], classes: int, grid: BevGrid) -> CenterOutput:
    """Predictions of one sample that say exactly these boxes (each in a cell of its own) and nothing else."""
    cells_x, cells_y = grid.size[:2]
    codes = encode_boxes(boxes, grid)
    assert codes.inside.all()
    column, row = codes.cell_xy.unbind(1)
    assert len(set(codes.cell_xy.unique(dim=0))) == len(boxes)
    heatmap = torch.full((1, classes, cells_y, cells_x), -20.0)
    heatmap[0, labels, row, column] = torch.tensor(scores).logit()
    planes = torch.zeros(1, 10, cells_y, cells_x)
    planes[0, :, row, column] = codes.code.T
    return CenterOutput(heatmap, *planes.split((2, 1, 3, 2, 2), dim=1))


def box_at(x: float, y: float, *, length: float = 1.0, width: float = 1.0, yaw: float = 0.0, z: float = 0.0) -> Tensor:
    return torch.tensor([[x, y, z, length, width, 1.0, yaw, 0.0, 0.0]])


@pytest.mark.parametrize("log_dimensions", [True, False])
def test_codes_decode_to_the_boxes_they_came_from(
    small_grid: BevGrid, device: torch.device, log_dimensions: bool
) -> None:
    boxes = torch.randn(200, 9, generator=torch.Generator().manual_seed(0)).to(device)
    boxes[:, 3:6] = boxes[:, 3:6].abs() + 0.1
    boxes[:, 6] = boxes[:, 6].clamp(-3, 3)
    codes = encode_boxes(boxes, small_grid, log_dimensions=log_dimensions)
    assert codes.inside.sum() > 150
    cell = codes.cell_xy[:, 1] * small_grid.size[0] + codes.cell_xy[:, 0]
    decoded = decode_boxes(codes.code, cell, small_grid, log_dimensions=log_dimensions)
    torch.testing.assert_close(decoded[codes.inside], boxes[codes.inside], atol=1e-5, rtol=1e-5)


def test_boxes_scores_and_labels_come_back_best_first(small_grid: BevGrid, device: torch.device) -> None:
    boxes = torch.tensor(
        [[-3.1, -2.2, 0.5, 1.0, 0.5, 1.5, 2.9, 1.0, -2.0], [2.3, 1.7, -1.0, 4.0, 2.0, 1.6, -1.2, 0.0, 7.0]]
    )
    output = output_of(boxes, [1, 0], [0.4, 0.9], 2, small_grid)
    output = CenterOutput(*(plane.to(device) for plane in output))
    (found,) = decode_centers([output], small_grid)
    torch.testing.assert_close(found.boxes.cpu(), boxes[[1, 0]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.scores.cpu(), torch.tensor([0.9, 0.4]), atol=1e-5, rtol=1e-5)
    assert found.labels.tolist() == [0, 1]
    assert found.boxes.device.type == device.type


def test_labels_count_through_the_tasks_and_samples_stay_apart(small_grid: BevGrid) -> None:
    near, far = box_at(-3, -2), box_at(3, 2)
    first = [output_of(near, [0], [0.5], 2, small_grid), output_of(far, [0], [0.9], 3, small_grid)]
    second = [output_of(far, [1], [0.7], 2, small_grid), output_of(near, [2], [0.6], 3, small_grid)]
    batch = [CenterOutput(*map(torch.cat, zip(*samples, strict=True))) for samples in zip(first, second, strict=True)]
    found = decode_centers(batch, small_grid)
    assert [sample.labels.tolist() for sample in found] == [[0, 2], [1, 4]]
    assert [sample.boxes[:, 0].round().tolist() for sample in found] == [[-3, 3], [3, -3]]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [0, 1, 2, 3]),
        ({"score_threshold": 0.45}, [0, 1]),
        ({"max_candidates": 3}, [0, 1, 2]),
        ({"max_candidates": 100_000}, [0, 1, 2, 3]),
        ({"center_range": (-2.6, -9.0, -9.0, 9.0, 9.0, 9.0)}, [1, 2, 3]),
        ({"center_range": (-9.0, -9.0, -9.0, 9.0, 9.0, 0.5)}, [0, 1, 2]),
    ],
    ids=["all", "score", "candidates", "more candidates than cells", "range in x", "range in z"],
)
def test_candidates(small_grid: BevGrid, options: dict, kept: list[int]) -> None:
    boxes = torch.cat([box_at(-3, 0), box_at(-1, 0), box_at(1, 0), box_at(3, 0, z=1.0)])
    output = output_of(boxes, [0, 1, 0, 1], [0.6, 0.5, 0.4, 0.3], 2, small_grid)
    (found,) = decode_centers([output], small_grid, DecodeOptions(nms=(KEEP_ALL,), **options))
    torch.testing.assert_close(found.boxes, boxes[kept], atol=1e-5, rtol=1e-5)


# Two boxes, the first one better; which stay?
@pytest.mark.parametrize(
    ("boxes", "nms", "kept"),
    [
        # IoU of two unit squares half a metre apart: 0.5 / 1.5 = 0.33
        ([box_at(0, 0), box_at(0.5, 0)], NmsOptions(threshold=0.3), [0]),
        ([box_at(0, 0), box_at(0.5, 0)], NmsOptions(threshold=0.4), [0, 1]),
        # 3 m long and 0.5 m wide, a metre apart along y: side by side, or one behind the other when turned
        ([box_at(0, 0, length=3, width=0.5), box_at(0, 1, length=3, width=0.5)], NmsOptions(), [0, 1]),
        (
            [
                box_at(0, 0, length=3, width=0.5, yaw=math.pi / 2),
                box_at(0, 1, length=3, width=0.5, yaw=math.pi / 2),
            ],
            NmsOptions(),
            [0],
        ),
        # yaw is counter-clockwise: long boxes one behind the other on a line that rises with x
        (
            [
                box_at(0, 0, length=4, width=0.5, yaw=math.pi / 4),
                box_at(1, 1, length=4, width=0.5, yaw=math.pi / 4),
            ],
            NmsOptions(),
            [0],
        ),
        (
            [
                box_at(0, 0, length=4, width=0.5, yaw=-math.pi / 4),
                box_at(1, 1, length=4, width=0.5, yaw=-math.pi / 4),
            ],
            NmsOptions(),
            [0, 1],
        ),
        # scale-NMS: sizes count multiplied while comparing
        ([box_at(0, 0), box_at(1.5, 0)], NmsOptions(rescale=(2.0,)), [0, 1]),
        ([box_at(0, 0), box_at(1.5, 0)], NmsOptions(rescale=(3.0,)), [0]),
        ([box_at(0, 0), box_at(1.5, 0)], NmsOptions(rescale=(3.0, 0.1)), [0, 1]),
        ([box_at(0, 0), box_at(0.5, 0)], NmsOptions(rescale=(0.4, 0.4)), [0, 1]),
        # the circle's radius is compared with the squared distance
        ([box_at(0, 0), box_at(1.9, 0)], NmsOptions(kind="circle", radius=4.0), [0]),
        ([box_at(0, 0), box_at(2.1, 0)], NmsOptions(kind="circle", radius=4.0), [0, 1]),
        ([box_at(0, 0), box_at(3, 0)], NmsOptions(post_max=1), [0]),
        ([box_at(0, 0), box_at(3, 0)], NmsOptions(kind="circle", radius=0.1, post_max=1), [0]),
        ([box_at(0, 0), box_at(3, 0)], NmsOptions(pre_max=1), [0]),
    ],
)
def test_suppression_of_the_second_of_two_boxes(
    small_grid: BevGrid, boxes: list[Tensor], nms: NmsOptions, kept: list[int]
) -> None:
    stacked = torch.cat(boxes)
    output = output_of(stacked, [0, 1], [0.6, 0.5], 2, small_grid)
    (found,) = decode_centers([output], small_grid, DecodeOptions(nms=(nms,)))
    torch.testing.assert_close(found.boxes, stacked[kept], atol=1e-5, rtol=1e-5)
    assert found.labels.tolist() == kept


def test_every_task_has_its_own_suppression(small_grid: BevGrid) -> None:
    output = output_of(torch.cat([box_at(0, 0), box_at(0.5, 0)]), [0, 0], [0.6, 0.5], 1, small_grid)
    nms = (NmsOptions(threshold=0.3), NmsOptions(kind="circle", radius=0.1), NmsOptions(kind="circle", radius=0.3))
    (found,) = decode_centers([output] * 3, small_grid, DecodeOptions(nms=nms))
    assert found.labels.tolist() == [0, 1, 1, 2]


def test_nothing_found_is_an_empty_result(small_grid: BevGrid) -> None:
    output = CenterOutput(*(torch.full((2, c, 12, 16), -20.0) for c in (2, 2, 1, 3, 2, 2)))
    found = decode_centers([output, output], small_grid, DecodeOptions(nms=(NmsOptions(), KEEP_ALL)))
    assert [len(sample) for sample in found] == [0, 0]
    assert found[0].boxes.shape == (0, 9)
    assert found[0].labels.dtype == torch.int64


@pytest.mark.parametrize("value", [math.nan, 1000.0])
def test_predictions_that_are_no_boxes_are_left_out(small_grid: BevGrid, value: float) -> None:
    boxes = torch.cat([box_at(0, 0), box_at(2, 0)])
    output = output_of(boxes, [0, 0], [0.6, 0.5], 1, small_grid)
    row, column = 6, 8
    output.size[0, 0, row, column] = value  # exp(1000) is beyond float32
    (found,) = decode_centers([output], small_grid)
    torch.testing.assert_close(found.boxes, boxes[1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NmsOptions(kind="square"), "NMS kind must be one of rotated, circle; got 'square'"),
        (lambda: NmsOptions(rescale=(1.0, 0.0)), "rescale factors must be positive"),
        (lambda: NmsOptions(post_max=0), "pre_max and post_max must be at least 1; got 1000 and 0"),
        (lambda: DecodeOptions(max_candidates=0), "max_candidates must be at least 1"),
        (lambda: DecodeOptions(center_range=(0.0,) * 6), "center_range must be lower x, y, z, upper x, y, z"),
        (lambda: DecodeOptions(nms=()), "nms must hold one NmsOptions for all tasks"),
        (lambda: DecodeOptions(nms=(KEEP_ALL,) * 2).nms_of_tasks((1, 1, 1)), r"nms must hold 1 or 3 .*got 2"),
        (
            lambda: DecodeOptions(nms=(NmsOptions(rescale=(1.0, 2.0)),)).nms_of_tasks((2, 3)),
            r"nms of task 1: rescale must hold 0, 1 or 3 .*got 2",
        ),
    ],
)
def test_bad_options(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


class TestDetections:
    def detections(self) -> Detections:
        return Detections(torch.arange(27.0).view(3, 9), torch.tensor([0.9, 0.5, 0.1]), torch.tensor([2, 0, 1]))

    @pytest.mark.parametrize(
        "rows",
        [torch.tensor([True, False, True]), torch.tensor([0, 2]), slice(0, None, 2)],
        ids=["mask", "indices", "slice"],
    )
    def test_rows_are_chosen_together(self, rows: Tensor | slice) -> None:
        chosen = self.detections()[rows]
        assert len(chosen) == 2
        assert chosen.boxes[:, 0].tolist() == [0.0, 18.0]
        assert chosen.labels.tolist() == [2, 1]
        torch.testing.assert_close(chosen.scores, torch.tensor([0.9, 0.1]))

    def test_moves_to_a_device(self, device: torch.device) -> None:
        moved = self.detections().to(device)
        assert {field.device.type for field in (moved.boxes, moved.scores, moved.labels)} == {device.type}

    def test_parts_follow_each_other(self) -> None:
        both = Detections.concatenate([self.detections(), self.detections()[:1]])
        assert both.labels.tolist() == [2, 0, 1, 2]

    @pytest.mark.parametrize(
        ("boxes", "scores", "labels", "message"),
        [
            (torch.zeros(3, 7), torch.zeros(3), torch.zeros(3).long(), r"boxes must be \(M, 9\).*got \(3, 7\)"),
            (torch.zeros(3, 9), torch.zeros(2), torch.zeros(3).long(), r"scores must be \(3,\).*got \(2,\)"),
            (torch.zeros(3, 9), torch.zeros(3), torch.zeros(3, 1).long(), r"labels must be \(3,\).*got \(3, 1\)"),
            (torch.zeros(3, 9), torch.zeros(3), torch.zeros(3), "labels must be int64; got torch.float32"),
        ],
    )
    def test_refuses_fields_that_do_not_fit(self, boxes: Tensor, scores: Tensor, labels: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Detections(boxes, scores, labels)
