"""The camera-aware depth net against its layers written out, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bev_lss import CameraDepthNet, PlainDepthNet

M, IN, D, C, H, W = 3, 6, 5, 4, 4, 7


def make_net(**options: object) -> CameraDepthNet:
    """A net whose batch norms have seen something, so that none is the identity."""
    torch.manual_seed(0)
    net = CameraDepthNet(IN, D, C, **{"aspp_channels": 8, **options})
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor, spread in ((module.weight, 0.3), (module.bias, 0.3), (module.running_mean, 0.3)):
                tensor.data += spread * torch.randn_like(tensor)
            module.running_var.data += torch.rand_like(module.running_var)
    return net.eval()


def make_inputs(images: int = M) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(images, IN, H, W), torch.randn(images, 27), torch.randn(images, D, 4 * H, 4 * W).softmax(1)


def written_out(
    net: CameraDepthNet, features: Tensor, params: Tensor, volume: Tensor | None, dilations: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """The published layers, by the names in the state dict."""
    state = net.state_dict()

    def conv(name: str, x: Tensor, **options: int) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def gated(kind: str, x: Tensor) -> Tensor:
        told = linear(f"{kind}_mlp.fc2", linear(f"{kind}_mlp.fc1", norm("camera_norm", params)).clamp(min=0))
        squeezed = conv(f"{kind}_se.reduce", told[..., None, None]).clamp(min=0)
        return x * torch.sigmoid(conv(f"{kind}_se.expand", squeezed))

    features = norm("reduce.1", conv("reduce.0", features, padding=1)).clamp(min=0)
    context = conv("context_conv", gated("context", features))
    x = gated("depth", features)
    if volume is not None:
        small = norm("cost_net.1", conv("cost_net.0", volume, stride=2, padding=1))
        x = torch.cat([x, norm("cost_net.3", conv("cost_net.2", small, stride=2, padding=1))], dim=1)
    for i in range(3):
        block = f"depth_blocks.{i}"
        inner = norm(f"{block}.bn1", conv(f"{block}.conv1", x, padding=1)).clamp(min=0)
        inner = norm(f"{block}.bn2", conv(f"{block}.conv2", inner, padding=1))
        x = (inner + (conv(f"{block}.shortcut", x) if f"{block}.shortcut.weight" in state else x)).clamp(min=0)
    if dilations:
        spread = [{}] + [{"padding": d, "dilation": d} for d in dilations]
        names = [f"aspp.branches.{i}" for i in range(len(spread))]
        parts = [norm(f"{n}.1", conv(f"{n}.0", x, **s)).clamp(min=0) for n, s in zip(names, spread, strict=True)]
        pooled = norm("aspp.pooled.1", conv("aspp.pooled.0", x.mean((2, 3), keepdim=True))).clamp(min=0)
        parts.append(pooled.expand_as(parts[0]))
        x = norm("aspp.fuse.1", conv("aspp.fuse.0", torch.cat(parts, dim=1))).clamp(min=0)
    return conv("depth_out", x), context


@pytest.mark.parametrize(
    ("options", "dilations"),
    [
        ({}, (6, 12, 18)),
        ({"mid_channels": 10}, (6, 12, 18)),
        ({"aspp_channels": None}, ()),
        ({"stereo": True}, (6, 12, 18)),
        ({"stereo": True, "mid_channels": 10, "checkpointing": True}, (6, 12, 18)),
    ],
)
def test_the_layers_are_the_published_ones(options: dict, dilations: tuple[int, ...]) -> None:
    net = make_net(**options)
    features, params, volume = make_inputs()
    volume = volume if options.get("stereo") else None

    logits, context = net(features, params, volume)

    assert logits.shape == (M, D, H, W)
    assert context.shape == (M, C, H, W)
    wanted = written_out(net, features, params, volume, dilations)
    torch.testing.assert_close((logits, context), wanted, rtol=1e-4, atol=1e-5)


def test_without_a_frame_before_the_cost_volume_is_zero() -> None:
    net = make_net(stereo=True)
    features, params, volume = make_inputs()
    torch.testing.assert_close(net(features, params), net(features, params, torch.zeros_like(volume)))


def test_each_image_is_gated_by_its_own_camera() -> None:
    net = make_net()
    features, params, _ = make_inputs()
    before = net(features, params)
    after = net(features, params + torch.tensor([0.0, 5.0, 0.0])[:, None])
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one[[0, 2]], other[[0, 2]])
        assert (one[1] - other[1]).abs().max() > 1e-3


def test_checkpointing_changes_no_value_and_no_gradient() -> None:
    features, params, volume = make_inputs()
    results = []
    for checkpointing in (False, True):
        net = make_net(stereo=True, checkpointing=checkpointing).train()
        torch.manual_seed(2)  # the same dropout
        logits, context = net(features, params, volume)
        (logits.square().mean() + context.square().mean()).backward()
        results.append((logits, context, *(p.grad for p in net.parameters())))
    torch.testing.assert_close(results[0], results[1])
    assert all(t is not None and t.abs().sum() > 0 for t in results[0][2:]), "every parameter learns"


def test_checkpointing_updates_the_statistics_of_the_depth_branch_twice() -> None:
    features, params, _ = make_inputs()
    net = make_net(checkpointing=True).train()
    net(features, params)[0].sum().backward()
    seen = {name: int(count) for name, count in net.named_buffers() if name.endswith("num_batches_tracked")}
    assert {name for name, count in seen.items() if count == 2} == {
        n for n in seen if n.startswith(("depth_b", "aspp"))
    }
    assert {count for name, count in seen.items() if name.startswith(("reduce", "camera_norm"))} == {1}


def test_dropout_is_in_the_pyramid_and_only_there() -> None:
    net = make_net().train()
    assert [name for name, m in net.named_modules() if isinstance(m, nn.Dropout)] == ["aspp.dropout"]
    assert net.aspp.dropout.p == 0.5


def test_one_image_is_fine_for_prediction_and_refused_while_training() -> None:
    net = make_net()
    features, params, _ = make_inputs(1)
    assert net(features, params)[0].shape == (1, D, H, W)
    with pytest.raises(ValueError, match=r"wants at least two \(samples x cameras\) while training, got 1"):
        net.train()(features, params)


@pytest.mark.parametrize(
    ("stereo", "params", "volume", "message"),
    [
        (False, None, None, r"wants camera parameters \(3, 27\), got None"),
        (False, (3, 26), None, r"wants camera parameters \(3, 27\), got \(3, 26\)"),
        (False, (2, 27), None, r"wants camera parameters \(3, 27\), got \(2, 27\)"),
        (False, (3, 27), (3, D, 16, 28), "takes no cost volume: build it with stereo=True"),
        (True, (3, 27), (3, D, 8, 14), r"wants a cost volume \(3, 5, 16, 28\), got \(3, 5, 8, 14\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    stereo: bool, params: tuple[int, ...] | None, volume: tuple[int, ...] | None, message: str
) -> None:
    inputs = [None if shape is None else torch.zeros(shape) for shape in (params, volume)]
    with pytest.raises(ValueError, match=message) as error:
        make_net(stereo=stereo)(torch.zeros(M, IN, H, W), *inputs)
    assert "\n" not in str(error.value)


def test_the_plain_net_looks_at_no_camera_and_takes_no_volume() -> None:
    net = PlainDepthNet(IN, D, C)
    features, params, volume = make_inputs()
    torch.testing.assert_close(net(features, params), net(features))
    with pytest.raises(ValueError, match="PlainDepthNet takes no cost volume"):
        net(features, params, volume)


def test_half_precision_stays_close() -> None:
    net = make_net(stereo=True)
    inputs = make_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net(*inputs)
    for low, full in zip(half, net(*inputs), strict=True):
        assert (low.float() - full).abs().max() < 0.1 * full.std()
