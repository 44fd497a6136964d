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
    decode_centers_padded,
    encode_boxes,
    gather_codes,
)
from bev_ops import BevGrid, nms_circle, nms_rotated

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


SIX_RULES = (
    NmsOptions(threshold=0.1, rescale=(0.7,), post_max=20),
    NmsOptions(threshold=0.2, rescale=(0.4, 1.6)),
    NmsOptions(kind="circle", radius=0.5, post_max=7),
    NmsOptions(kind="circle", radius=0.0, pre_max=30),
    NmsOptions(threshold=0.3),
    NmsOptions(threshold=0.05, pre_max=40, post_max=3, rescale=(1.5, 2.5)),
)
SIX_CLASSES = (1, 2, 2, 1, 3, 2)


def clusters_on(grid: BevGrid, samples: int, device: torch.device, seed: int = 0) -> list[CenterOutput]:
    """Six tasks with boxes that overlap, some of them out of range or without a finite size."""
    generator = torch.Generator().manual_seed(seed)
    cells_x, cells_y = grid.size[:2]
    outputs = []
    for classes in SIX_CLASSES:
        planes = [torch.randn(samples, c, cells_y, cells_x, generator=generator) for c in (classes, 2, 1, 3, 2, 2)]
        planes[2] *= 4
        planes[3][torch.rand(planes[3].shape, generator=generator) < 0.02] = math.inf
        outputs.append(CenterOutput(*(plane.to(device) for plane in planes)))
    return outputs


def decoded_one_by_one(outputs: list[CenterOutput], grid: BevGrid, options: DecodeOptions, sample: int) -> Detections:
    """The rules in a loop over the tasks, for one sample."""
    parts, first_label = [], 0
    for output, nms in zip(outputs, options.nms, strict=True):
        one = CenterOutput(*(plane[sample : sample + 1] for plane in output))
        cells = one.heatmap.shape[2] * one.heatmap.shape[3]
        probability = one.heatmap.sigmoid().flatten()
        scores, index = probability.topk(min(options.max_candidates, len(probability)))
        boxes = decode_boxes(gather_codes(one, index[None] % cells), index[None] % cells, grid)[0]
        lower, upper = (boxes.new_tensor(side) for side in (options.center_range[:3], options.center_range[3:]))
        entered = (boxes[:, :3] >= lower).all(1) & (boxes[:, :3] <= upper).all(1) & boxes.isfinite().all(1)
        entered = (entered & (scores > options.score_threshold)).nonzero()[: nms.pre_max, 0]
        boxes, scores, labels = boxes[entered], scores[entered], index[entered] // cells
        if nms.kind == "circle":
            keep = nms_circle(boxes[:, :2], scores, nms.radius)
        else:
            factors = boxes.new_tensor(nms.rescale or (1.0,))
            sizes = boxes[:, 3:5] * factors[labels if len(nms.rescale) > 1 else 0 * labels, None]
            keep = nms_rotated(torch.cat([boxes[:, :2], sizes, boxes[:, 6:7]], 1), scores, nms.threshold)
        keep = keep[: nms.post_max]
        parts.append(Detections(boxes[keep], scores[keep], labels[keep] + first_label))
        first_label += output.heatmap.shape[1]
    return Detections.concatenate(parts)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"score_threshold": 0.6},
        {"score_threshold": 0.999},
        {"score_threshold": -1.0, "max_candidates": 100_000},
        {"max_candidates": 33},
        {"center_range": (-2.0, -3.0, -1.0, 3.0, 1.0, 2.0)},
    ],
    ids=str,
)
@pytest.mark.parametrize("samples", [1, 3])
def test_all_tasks_at_once_find_what_a_loop_over_them_finds(small_grid, device, settings, samples) -> None:
    outputs = clusters_on(small_grid, samples, device)
    options = DecodeOptions(nms=SIX_RULES, **settings)
    found = decode_centers(outputs, small_grid, options)
    padded = decode_centers_padded(outputs, small_grid, options)
    assert len(found) == samples
    for b, sample in enumerate(found):
        want = decoded_one_by_one(outputs, small_grid, options, b)
        assert sample.labels.tolist() == want.labels.tolist()
        assert torch.equal(sample.scores, want.scores)
        torch.testing.assert_close(sample.boxes, want.boxes, rtol=1e-6, atol=1e-6)
        assert int(padded.counts[b]) == len(want)
        assert (padded.labels[b, len(want) :] == -1).all()
        assert not padded.boxes[b, len(want) :].any()


def test_padded_rows_are_as_many_as_may_be_kept(small_grid: BevGrid, device: torch.device) -> None:
    outputs = clusters_on(small_grid, 2, device)
    padded = decode_centers_padded(outputs, small_grid, DecodeOptions(nms=SIX_RULES))
    cells = 16 * 12
    rows = 20 + 2 * cells + 7 + 30 + 500 + 3  # post_max, all cells, post_max, pre_max, max_candidates, post_max
    assert padded.boxes.shape == (2, rows, 9)
    assert padded.scores.shape == padded.labels.shape == (2, rows)
    assert padded.counts.dtype == padded.labels.dtype == torch.int64


def test_codes_have_gradients_after_a_first_use_in_inference_mode() -> None:
    grid = BevGrid(x=(-7.0, 7.0, 0.25), y=(-3.0, 3.0, 0.25), z=(-5.0, 3.0, 8.0))  # of no other test
    code, cell = torch.zeros(1, 10), torch.zeros(1, dtype=torch.int64)
    with torch.inference_mode():
        decode_boxes(code, cell, grid)
    boxes = decode_boxes(code.requires_grad_(), cell, grid)
    (slope,) = torch.autograd.grad(boxes[0, :2].sum(), code)
    assert slope[0, :2].tolist() == [0.25, 0.25]


class Decode(torch.nn.Module):
    """Decoding as a model exports it."""

    def __init__(self, grid: BevGrid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, planes: list[list[Tensor]]) -> tuple[Tensor, ...]:
        outputs = [CenterOutput(*task) for task in planes]
        return tuple(decode_centers_padded(outputs, self.grid, DecodeOptions(nms=SIX_RULES)))


def test_exports_and_compiles_as_one_graph(small_grid: BevGrid) -> None:
    decode = Decode(small_grid)
    planes = [list(output) for output in clusters_on(small_grid, 2, torch.device("cpu"))]
    program = torch.export.export(decode, (planes,)).module()
    compiled = torch.compile(decode, fullgraph=True, backend="aot_eager")
    other = [list(output) for output in clusters_on(small_grid, 2, torch.device("cpu"), seed=1)]
    for run in (program, compiled):
        for got, want in zip(run(other), decode(other), strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: no CUDA graph was captured")
def test_a_cuda_graph_captures_it(small_grid: BevGrid) -> None:
    outputs = clusters_on(small_grid, 2, torch.device("cuda"))
    other = clusters_on(small_grid, 2, torch.device("cuda"), seed=1)
    options = DecodeOptions(nms=SIX_RULES)
    want = decode_centers_padded(other, small_grid, options)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = decode_centers_padded(outputs, small_grid, options)
    for mine, theirs in zip(outputs, other, strict=True):
        for plane, value in zip(mine, theirs, strict=True):
            plane.copy_(value)
    graph.replay()
    for got, one in zip(captured, want, strict=True):
        assert torch.equal(got, one)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: nothing could wait for it")
def test_the_host_waits_once(small_grid: BevGrid) -> None:
    outputs, options = clusters_on(small_grid, 2, torch.device("cuda")), DecodeOptions(nms=SIX_RULES)
    decode_centers(outputs, small_grid, options)
    torch.cuda.set_sync_debug_mode("error")
    try:
        padded = decode_centers_padded(outputs, small_grid, options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum(len(sample) for sample in padded.unpadded()) == int(padded.counts.sum())


@pytest.mark.parametrize("heatmaps", [[], [(1, 1, 12, 16), (2, 1, 12, 16)], [(1, 1, 12, 16), (1, 1, 16, 12)]], ids=str)
def test_tasks_that_do_not_fit_each_other(small_grid: BevGrid, heatmaps: list[tuple[int, ...]]) -> None:
    outputs = [
        CenterOutput(*(torch.zeros(b, c, y, x) for c in (classes, 2, 1, 3, 2, 2))) for b, classes, y, x in heatmaps
    ]
    with pytest.raises(ValueError, match="one CenterOutput per task, their heatmaps"):
        decode_centers(outputs, small_grid)


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
