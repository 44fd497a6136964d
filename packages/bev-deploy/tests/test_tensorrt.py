"""Building and running engines, with a stand-in for TensorRT and the GPU; and the real module's names, where it is."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from bev_deploy import Manifest, TableBounds, TableOverflowError, load
from bev_deploy.compare import drive
from bev_deploy.manifest import sha256_of
from bev_deploy.tensorrt import (
    BuildOptions,
    EngineError,
    EngineSession,
    bindings,
    build_engine,
    builder,
    engine,
    engine_metadata,
    latency,
    plugin,
    step_inputs,
)
from bev_deploy.tensorrt.builder import TIMING_CACHE_NAME, profile_shapes
from bev_deploy.tensorrt.metadata import ENGINE_NAME, METADATA_NAME


def _module_at(path: Path) -> ModuleType:
    """A module of a folder that is no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and pickle look it up
    spec.loader.exec_module(module)
    return module


REPORT = Path(__file__).resolve().parents[3] / "tools" / "trt_report.py"
fake = _module_at(Path(__file__).with_name("fake_tensorrt.py"))
Exports = Callable[..., Any]  # the fixture of conftest.py
SMALL = (64, 192)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with TensorRT and a GPU, to all appearances."""
    machine = fake.FakeGpu()
    monkeypatch.setattr(builder, "current_gpu", lambda: machine)
    monkeypatch.setattr(engine, "current_gpu", lambda: machine)
    monkeypatch.setattr(plugin, "_registered", [])
    monkeypatch.setattr(fake.Builder, "made", [])
    for name, module in fake.fake_modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return machine


@pytest.fixture
def copied(exported: Exports, tmp_path: Path) -> Callable[..., Path]:
    """A copy of an export, for an engine of its own."""

    def copy(name: str = "bevdet-tiny", **options: object) -> Path:
        return Path(shutil.copytree(exported(name, SMALL, raw=True, **options).folder, tmp_path / "model"))

    return copy


# -- building ----------------------------------------------------------------------------------------------------------


def test_what_is_asked_of_the_builder(gpu: Any, copied: Callable[..., Path]) -> None:
    folder = copied()
    metadata = build_engine(folder, BuildOptions(workspace_gib=0.5, optimization_level=5))
    made, manifest = fake.Builder.made[0], Manifest.read(folder)
    assert made.network.flags == 1 << fake.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert made.config.limits == {"workspace": 1 << 29}
    assert made.config.builder_optimization_level == 5
    assert not made.config.flags
    assert made.config.profile.shapes["pool_sums_3"][0] == (2, 2)
    assert made.config.profile.shapes["pool_sums_3"][2] == (manifest.bounds.sums_3, manifest.bounds.width_3)
    assert "images" not in made.config.profile.shapes
    assert metadata == engine_metadata(folder)
    assert dataclasses.asdict(metadata) | {"build_seconds": 0} == {
        "recipe": "bevdet-tiny",
        "gpu": "Fake GPU",
        "capability": "9.0",
        "tensorrt": "10.12.0.36",
        "model": sha256_of(folder / "model.onnx"),
        "bounds": manifest.bounds,
        "max_batch": 1,
        "plugin": None,
        "optimization_level": 5,
        "tf32": False,
        "workspace_gib": 0.5,
        "build_seconds": 0,
    }


def test_profiles_of_any_batch(exported: Exports) -> None:
    manifest = Manifest.read(exported("bevdet-tiny", SMALL, raw=True, batch=None).folder)
    shapes = {name: (least[0], most[0]) for name, least, _, most in profile_shapes(manifest, 3)}
    cells = 64 * 64
    assert shapes["images"] == (1, 3)
    assert shapes["pool_cell_row"] == (cells, 3 * cells)
    assert shapes["pool_points"[:5] + "point_depth"] == (2, manifest.bounds.points)


def test_measured_times_are_kept(gpu: Any, copied: Callable[..., Path], tmp_path: Path) -> None:
    folder = copied()
    build_engine(folder)
    build_engine(folder)
    assert (folder / TIMING_CACHE_NAME).read_bytes() == b"timedtimed"
    elsewhere = tmp_path / "times"
    elsewhere.write_bytes(b"of another GPU")
    build_engine(folder, BuildOptions(timing_cache=elsewhere))
    assert elsewhere.read_bytes() == b"timed"
    build_engine(folder, BuildOptions(timing_cache=tmp_path / "new" / "times"))
    assert (tmp_path / "new" / "times").read_bytes() == b"timed"


@pytest.mark.parametrize(("max_batch", "fits"), [(3, True), (4, False)])
def test_more_samples_than_there_are_tables_for_are_warned_about(gpu, copied, max_batch: int, fits: bool) -> None:
    folder = copied(batch=None)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        build_engine(folder, BuildOptions(max_batch=max_batch))
    lines = [str(warning.message) for warning in said if "max_batch" in str(warning.message)]
    assert len(lines) == (0 if fits else 1)
    assert all("tables for 3 samples" in line and line.endswith("export it with --table-margin 2") for line in lines)
    with nullcontext() if fits else pytest.raises(TableOverflowError):
        step_inputs(load(folder, "tensorrt"), samples=max_batch)


@pytest.mark.parametrize(
    ("kind", "flag"), [("ahead-of-time", "PREFER_AOT_PYTHON_PLUGINS"), ("callback", "PREFER_JIT_PYTHON_PLUGINS")]
)
def test_the_plugin_is_left_to_tensorrt(gpu: Any, copied: Callable[..., Path], kind: Any, flag: str) -> None:
    folder = copied(pool="plugin")
    assert build_engine(folder, BuildOptions(plugin=kind)).plugin == kind
    network = fake.Builder.made[0].network
    assert network.flags & 1 << fake.NetworkDefinitionCreationFlag[flag]
    model = onnx.load_from_string(network.model)
    assert not model.functions
    node = next(node for node in model.graph.node if node.op_type == "bev_pool")
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert attributes["plugin_namespace"] == b"bev" and attributes["plugin_version"] == b"1"
    registered = sys.modules["tensorrt.plugin"].registered
    assert set(registered) == {("bev::bev_pool", kind) for kind in ("register", "impl", "aot_impl", "autotune")}


def test_an_engine_that_cannot_be_built_leaves_the_old_one(
    gpu: Any, copied: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied()
    build_engine(folder)
    before = (folder / ENGINE_NAME).read_bytes(), (folder / METADATA_NAME).read_text()
    monkeypatch.setattr(fake.Builder, "fails", True)
    with pytest.raises(EngineError, match=r"could not build an engine from .*model\.onnx"):
        build_engine(folder)
    assert before == ((folder / ENGINE_NAME).read_bytes(), (folder / METADATA_NAME).read_text())


def test_what_the_parser_refuses_is_listed(gpu: Any, copied: Callable[..., Path]) -> None:
    folder = copied()
    model = onnx.load(folder / "model.onnx")
    model.graph.node.append(helper.make_node(fake.REFUSED, [model.graph.output[0].name], ["unused"], name="the_node"))
    onnx.save(model, folder / "model.onnx")
    content = json.loads((folder / "manifest.json").read_text())
    content["files"]["model.onnx"] = sha256_of(folder / "model.onnx")
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(EngineError, match=f"cannot read .*: {fake.REFUSED} the_node: not supported$"):
        build_engine(folder)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"workspace_gib": 0}, "workspace_gib must be above 0"),
        ({"optimization_level": 6}, "optimization_level must be 0 to 5"),
        ({"max_batch": 0}, "max_batch must be at least 1"),
        ({"plugin": "aot"}, "plugin must be one of ahead-of-time, callback, got 'aot'"),
    ],
)
def test_options_out_of_range(copied: Callable[..., Path], options: dict[str, Any], error: str) -> None:
    with pytest.raises(EngineError, match=error):
        build_engine(copied(), BuildOptions(**options))


# -- running -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"pool": "plugin"}, {"precision": "fp16"}], ids=str)
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_an_engine_gives_what_the_model_gives(gpu, copied, cuda_graph: bool, options: dict[str, Any]) -> None:
    folder = copied(**options)
    build_engine(folder)
    deployed, reference = load(folder, "tensorrt", cuda_graph=cuda_graph), load(folder)
    inputs = step_inputs(reference)
    padded = step_inputs(deployed)  # to the bounds
    assert padded["pool_point_depth"].shape[0] > inputs["pool_point_depth"].shape[0]
    got, want = deployed.session(padded), reference.session(inputs)
    assert got.keys() == want.keys()
    for name in want:
        assert torch.allclose(got[name], want[name], rtol=1e-3, atol=1e-4), name
    assert gpu.replayed == int(cuda_graph)


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_stream_keeps_its_state(gpu, copied, exported, cuda_graph: bool) -> None:
    folder = copied("bevdet-tiny-4d")
    build_engine(folder)
    deployed, reference = load(folder, "tensorrt", cuda_graph=cuda_graph), load(folder)
    streams = deployed.stream(), reference.stream()
    for images, rig in drive(exported("bevdet-tiny-4d", SMALL, raw=True).model, 4):
        got, want = (stream.outputs(images, rig) for stream in streams)
        for name in want:
            assert torch.allclose(got[name], want[name], atol=1e-4), name


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_results_belong_to_the_caller(gpu, copied, cuda_graph: bool) -> None:
    folder = copied()
    build_engine(folder)
    deployed = load(folder, "tensorrt", cuda_graph=cuda_graph)
    first = deployed.session(step_inputs(deployed, seed=0))
    kept = {name: tensor.clone() for name, tensor in first.items()}
    second = deployed.session(step_inputs(deployed, seed=1))
    assert all(torch.equal(first[name], kept[name]) for name in kept)
    assert not torch.equal(first["task0_heatmap"], second["task0_heatmap"])


def test_a_table_that_was_changed_in_place_is_read_again(gpu, copied) -> None:
    folder = copied()
    build_engine(folder)
    deployed = load(folder, "tensorrt")
    inputs = step_inputs(deployed)
    before = deployed.session(inputs)["task0_heatmap"]
    inputs["pool_cell_row"].zero_()
    assert not torch.equal(deployed.session(inputs)["task0_heatmap"], before)


def test_a_table_of_before_comes_back_after_one_of_inference_mode(gpu, copied) -> None:
    folder = copied()
    build_engine(folder)
    deployed = load(folder, "tensorrt")
    inputs = step_inputs(deployed)
    before = deployed.session(inputs)["task0_heatmap"]
    with torch.inference_mode():
        others = inputs | {"pool_cell_row": torch.zeros_like(inputs["pool_cell_row"])}
        assert not torch.equal(deployed.session(others)["task0_heatmap"], before)
    assert torch.equal(deployed.session(inputs)["task0_heatmap"], before)


def test_tensors_of_inference_mode(gpu, copied) -> None:
    folder = copied()
    build_engine(folder)
    with torch.inference_mode():
        deployed = load(folder, "tensorrt")
        inputs = step_inputs(deployed)
        before = deployed.session(inputs)["task0_heatmap"]
        inputs["pool_cell_row"].zero_()
        after = deployed.session(inputs)["task0_heatmap"]
        assert not torch.equal(after, before)
    assert torch.equal(deployed.session(inputs)["task0_heatmap"], after)  # buffers outlive the mode


def test_images_with_a_gradient_leave_none_behind(gpu, copied) -> None:
    folder = copied()
    build_engine(folder)
    deployed = load(folder, "tensorrt")
    inputs = step_inputs(deployed)
    inputs["images"].requires_grad_()
    assert not any(result.requires_grad for result in deployed.session(inputs).values())


def test_shapes_that_change_have_a_graph_each(gpu, copied) -> None:
    folder = copied(batch=None)
    build_engine(folder)
    deployed = load(folder, "tensorrt")
    for samples in (1, 2, 1, 2):
        assert len(deployed.session(step_inputs(deployed, samples=samples))["task0_heatmap"]) == samples
    assert gpu.replayed == 4


def test_an_engine_that_cannot_be_recorded_runs_all_the_same(gpu: Any, copied: Callable[..., Path]) -> None:
    folder = copied()
    build_engine(folder)
    gpu.records = False
    deployed, reference = load(folder, "tensorrt"), load(folder)
    inputs = step_inputs(deployed)
    with pytest.warns(UserWarning, match="without a CUDA graph, which failed: operation not permitted"):
        got = deployed.session(inputs)
    assert torch.allclose(got["task0_heatmap"], reference.session(inputs)["task0_heatmap"], atol=1e-4)
    deployed.session(inputs)  # no further warning
    assert gpu.queued == 2


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda inputs: inputs.pop("pool_sums_1"), "input pool_sums_1 is missing"),
        (lambda inputs: inputs.update(images=inputs["images"].half()), r"input images must be float32 \(1, 6, 3"),
        (lambda inputs: inputs.update(images=inputs["images"][0]), "input images must be float32"),
        (lambda inputs: inputs.update(images=inputs["images"][..., :-1]), "input images must be float32"),
        (
            lambda inputs: inputs.update(pool_sums_1=torch.zeros(10**6, 4, dtype=torch.int32)),
            r"not built for input pool_sums_1 of shape \(1000000, 4\)",
        ),
    ],
)
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_inputs_that_do_not_fit(gpu, copied, cuda_graph: bool, change: Callable[[dict], None], error: str) -> None:
    folder = copied()
    build_engine(folder)
    deployed = load(folder, "tensorrt", cuda_graph=cuda_graph)
    inputs = step_inputs(deployed)
    change(inputs)
    with pytest.raises(ValueError, match=error):
        deployed.session(inputs)


@pytest.mark.skipif(not REPORT.is_file(), reason="needs the repository's tools")
def test_the_report_builds_compares_and_times(gpu, exported, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, case = _module_at(REPORT), exported("bevdet-tiny", SMALL, raw=True)
    monkeypatch.setattr(report, "create_model", lambda name: case.model)
    monkeypatch.setattr(report, "draw_statistics", lambda model: None)
    monkeypatch.setattr(report, "latency", functools.partial(latency, warmup=0))
    monkeypatch.setattr(report, "export_model", lambda model, folder, _: shutil.copytree(case.folder, folder))
    request = ("bevdet-tiny", "fp32", "native", tmp_path, torch.device("cpu"))
    row = report.measured(*request, calls=1)
    assert row.good and 0 < row.error < 1e-3 and not row.torch_error
    assert min(row.megabytes, row.graph_ms, row.plain_ms, row.torch_ms) > 0
    monkeypatch.setattr(report, "export_model", lambda *_: None)
    monkeypatch.setattr(fake.Builder, "fails", True)
    assert "could not build an engine" in report.measured(*request, calls=1).failure
    monkeypatch.setattr(report, "build_engine", _out_of_memory)
    assert report.measured(*request, calls=1).failure == "CUDA out of memory"


def _out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of\nmemory")


# -- engines that do not fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("gpu", "Other GPU", "GPU Other GPU, and this is Fake GPU"),
        ("capability", "8.0", r"compute capability 8\.0, and this is 9\.0"),
        ("tensorrt", "11.4.0.1", r"TensorRT 11\.4\.0\.1, and this is 10\.12"),
        ("recipe", "bevdet-r50", "recipe bevdet-r50, and this is bevdet-tiny"),
        ("model", "0" * 64, r"model\.onnx with checksum 000000000000, and this is"),
        ("bounds", TableBounds(2, 2, 2, 2, 2)._asdict(), r"table bounds \(2, 2, 2, 2, 2\), and this is"),
    ],
)
def test_an_engine_for_something_else(gpu, copied, field: str, value: Any, line: str) -> None:
    folder = copied()
    build_engine(folder)
    path = folder / METADATA_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(EngineError, match=f"the engine was built for {line}.*: build it again") as caught:
        load(folder, "tensorrt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        (METADATA_NAME, None, "holds no engine: build one with bev-deploy build"),
        (METADATA_NAME, "{", "is broken .*: build it again"),
        (METADATA_NAME, "[]", "is broken .*: build it again"),
        (METADATA_NAME, '{"format": "bevkit-engine-1", "bounds": {}}', "is broken .*: build it again"),
        (ENGINE_NAME, None, "cannot be read .*: build it again"),
        (ENGINE_NAME, "half a plan", "TensorRT cannot load .*: build it again"),
    ],
)
def test_a_broken_engine(gpu, copied, name: str, content: str | None, line: str) -> None:
    folder = copied()
    build_engine(folder)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(EngineError, match=line):
        load(folder, "tensorrt")


def test_an_engine_with_other_tensors_than_the_manifest(gpu, copied) -> None:
    folder = copied()
    build_engine(folder)
    manifest = Manifest.read(folder)
    outputs = tuple(dataclasses.replace(spec, dtype="float16") for spec in manifest.outputs)
    with pytest.raises(EngineError, match=r"outputs missing: none, other types: .*task0_heatmap"):
        EngineSession(folder, dataclasses.replace(manifest, outputs=outputs))
    renamed = tuple(dataclasses.replace(spec, name=f"my_{spec.name}") for spec in manifest.outputs)
    with pytest.raises(EngineError, match=r"outputs missing: .*my_task0_heatmap"):
        EngineSession(folder, dataclasses.replace(manifest, outputs=renamed))


# -- without TensorRT or a GPU -----------------------------------------------------------------------------------------


def test_without_a_gpu_tensorrt_is_not_touched(copied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    folder = copied()
    for use in (build_engine, lambda folder: load(folder, "tensorrt")):
        with pytest.raises(EngineError, match="needs a CUDA GPU and PyTorch sees none here"):
            use(folder)


@pytest.mark.parametrize("version", [None, "8.6.1", "10.11.0.33"])
def test_without_tensorrt_or_with_an_old_one(gpu, copied, monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    if version is None:
        monkeypatch.setitem(sys.modules, "tensorrt", None)
    else:
        sys.modules["tensorrt"].__version__ = version
    line = "cannot be imported" if version is None else f"TensorRT {version} is too old"
    folder = copied()
    for use in (build_engine, lambda folder: load(folder, "tensorrt")):
        with pytest.raises(EngineError, match=line):
            use(folder)


# -- the real module ---------------------------------------------------------------------------------------------------


def test_every_name_that_is_used_is_there() -> None:
    tensorrt = pytest.importorskip("tensorrt", exc_type=ImportError)
    pytest.importorskip("tensorrt.plugin", exc_type=ImportError)
    assert bindings.missing_names(tensorrt) == []


def test_the_plugin_passes_the_checks_of_tensorrt() -> None:
    tensorrt = pytest.importorskip("tensorrt", exc_type=ImportError)
    plugins = pytest.importorskip("tensorrt.plugin", exc_type=ImportError)
    plugin.register_plugin(tensorrt, lazily=not torch.cuda.is_available())
    ranks = (5, 5, 5, 5, 1, 1, 2, 2, 2, 1)
    inputs = [plugins.TensorDesc(plugins.ShapeExprs(rank, _is_dummy=True), tensorrt.float32) for rank in ranks]
    functions = plugin.PoolPlugin(tensorrt, plugins)
    output = functions.description()(*inputs, cells_x=4, cells_y=5, cells_z=1)
    assert len(output.shape_expr) == 5 and output.dtype == tensorrt.float32
    name, ptx, launch, arguments = functions.ahead_of_time()(*inputs, 4, 5, 1, (output,), 0)
    assert f".entry {name}(" in ptx
    assert isinstance(launch, plugins.KernelLaunchParams)
    assert len(arguments) == 10 and all(isinstance(value, plugins.SymInt32) for value in arguments)


def test_names_that_are_missing_are_found() -> None:
    fakes = fake.fake_modules()
    missing = bindings.missing_names(fakes["tensorrt"])
    assert "ICudaEngine.get_tensor_mode" in missing and "Builder.create_network" not in missing


# -- time --------------------------------------------------------------------------------------------------------------


class Sleeper:
    """A session that does nothing."""

    device = torch.device("cpu")
    fixed_tables = False
    calls = 0

    def __call__(self, inputs: Any) -> dict[str, torch.Tensor]:
        self.calls += 1
        return {}


def test_latency() -> None:
    session = Sleeper()
    found = latency(session, {}, runs=5, warmup=2)
    assert session.calls == 7 and found.runs == 5
    assert 0 <= found.p10_ms <= found.median_ms <= found.p90_ms
    with pytest.raises(ValueError, match="at least 1"):
        latency(session, {}, runs=0)


def test_inputs_of_a_step_are_those_of_the_manifest(exported: Exports) -> None:
    for name in ("bevdet-tiny-stereo", "bevdet-tiny-occ"):
        deployed = exported(name, SMALL, raw=True).load()
        inputs = step_inputs(deployed)
        assert list(inputs) == [spec.name for spec in deployed.manifest.inputs]
        assert all(np.isfinite(result.numpy()).all() for result in deployed.session(inputs).values())
