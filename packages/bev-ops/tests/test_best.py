"""best_of_rows against a stable sort."""

from __future__ import annotations

import pytest
import torch

from bev_ops import _kernels, best_of_rows, reference

INF, NAN = float("inf"), float("nan")


@pytest.fixture(params=["reference", "kernels"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "reference":
        monkeypatch.setattr("bev_ops.best._best_of_rows", reference.best_of_rows)
    elif not _kernels.load("cpu"):
        pytest.skip("; ".join(str(status) for status in _kernels.kernel_status()))
    return request.param


@pytest.mark.parametrize(("length", "count"), [(1, 1), (15, 15), (100, 3), (4099, 500), (40_000, 7), (40_000, 500)])
def test_is_the_head_of_the_sorted_row(path, device, length, count) -> None:
    generator = torch.Generator().manual_seed(length)
    values = torch.stack([torch.randperm(length, generator=generator) - length / 3 for _ in range(3)]).to(device)
    best, index = best_of_rows(values, count)
    want, order = values.sort(dim=1, descending=True, stable=True)
    assert torch.equal(best, want[:, :count])
    assert torch.equal(index, order[:, :count])


@pytest.mark.parametrize(
    "fill",
    [
        lambda row: row.fill_(0.25),
        lambda row: row.copy_(row.round()),
        lambda row: row[: len(row) // 2].fill_(-INF),
        lambda row: row[::7].fill_(INF),
        lambda row: row[5:400].fill_(NAN),
        lambda row: row.fill_(NAN),
        lambda row: row.copy_(torch.arange(len(row)).float()),
        lambda row: row.copy_(-torch.arange(len(row)).float()),
    ],
    ids=["all equal", "many equal", "half -inf", "many inf", "nan first", "all nan", "rising", "falling"],
)
def test_adversarial_rows(path, fill) -> None:
    values = torch.randn(2, 9000, generator=torch.Generator().manual_seed(0))
    fill(values[0])
    best, index = best_of_rows(values, 300)
    same = {"rtol": 0.0, "atol": 0.0, "equal_nan": True}
    torch.testing.assert_close(best, values.topk(300)[0], **same)
    torch.testing.assert_close(best, values.gather(1, index), **same)
    assert all(len(set(row)) == 300 for row in index.tolist())


def test_equal_numbers_by_index() -> None:
    if not _kernels.load("cpu"):
        pytest.skip("plain PyTorch takes equal numbers in any order")
    values = torch.zeros(1, 5000)
    values[0, 4000:] = 1.0
    assert best_of_rows(values, 1200)[1][0].tolist() == [*range(4000, 5000), *range(200)]


def test_opcheck(device) -> None:
    torch.library.opcheck(torch.ops.bev_ops.best_of_rows, (torch.randn(2, 50, device=device), 4))


@pytest.mark.parametrize(
    ("values", "count", "message"),
    [
        (torch.zeros(3), 1, r"values must be float32 \(R, N\), got torch.float32 \(3,\)"),
        (torch.zeros(3, 4).double(), 1, "got torch.float64"),
        (torch.zeros(3, 4), 0, "count must lie in 1..4"),
        (torch.zeros(3, 4), 5, "count must lie in 1..4, the length of a row; got 5"),
    ],
)
def test_refuses(values, count, message) -> None:
    with pytest.raises(ValueError, match=message):
        best_of_rows(values, count)
