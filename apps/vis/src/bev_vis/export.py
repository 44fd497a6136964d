"""`bev-vis export`: frames as files that rerun and viser show, also on another machine."""

import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from bev_nuscenes.command_line import progress

from .options import ExportOptions, check_predictions
from .paths import check_writable
from .scene import EYE, TARGET, Lines, Points, Scene3d, Shape
from .view import Browser, open_browser

_SUFFIXES = {"rerun": ".rrd", "viser": ".viser"}
_SECONDS_PER_FRAME = 0.5  # key frames of nuScenes


def export(options: ExportOptions) -> list[Path]:
    """Write the file and return its path.

    Raises ValueError for what the user can put right, among it a missing package.
    """
    check_predictions(options)
    out, wanted = options.out, _SUFFIXES[options.to]
    if out.suffix.lower() != wanted:
        raise ValueError(f"--out {out} must end in {wanted} with --to {options.to}")
    check_writable(out.parent)
    write = _writer(options.to)
    browser, chosen = open_browser(options, options.samples)
    browser.instant = True  # every frame is asked for once: what a model says of it need not be kept
    write(out, _scenes(browser, chosen))
    return [out]


def _writer(kind: str) -> Callable[[Path, Iterator[Scene3d]], None]:
    """What writes a file of the kind, once it is known that its package is there."""
    package = {"rerun": "rerun-sdk", "viser": "viser"}[kind]
    try:
        if kind == "rerun":
            import rerun  # noqa: F401
        else:
            import viser  # noqa: F401
    except ImportError as error:
        raise ValueError(f'--to {kind} needs {package} ({error}): pip install "bev-vis[{kind}]"') from None
    return _write_rerun if kind == "rerun" else _write_viser


def _scenes(browser: Browser, chosen: range) -> Iterator[Scene3d]:
    bar = progress(len(chosen), "exporting")
    for place in chosen:
        browser.place = place
        yield browser.scene()
        bar.update()


def _write_rerun(path: Path, scenes: Iterator[Scene3d]) -> None:
    """A recording with one step of the time line ``frame`` per frame."""
    import rerun

    recording = rerun.RecordingStream("bev-vis")
    recording.save(str(path))
    recording.log("/", rerun.ViewCoordinates.FLU, static=True)
    for number, scene in enumerate(scenes):
        recording.set_time("frame", sequence=number)
        for layer in scene.layers:
            recording.log(layer.name, rerun.Clear(recursive=True))
            for part, shape in enumerate(layer.shapes):
                recording.log(f"{layer.name}/{part}", _rerun_shape(shape))
    recording.disconnect()


def _rerun_shape(shape: Shape) -> Any:
    import rerun

    colours = _bytes(shape.colours)
    if isinstance(shape, Points):
        return rerun.Points3D(shape.positions, colors=colours, radii=0.04)
    if isinstance(shape, Lines):
        return rerun.LineStrips3D(shape.positions[shape.ends], colors=colours, radii=0.03)
    return rerun.Mesh3D(vertex_positions=shape.positions, triangle_indices=shape.corners, vertex_colors=colours)


def _write_viser(path: Path, scenes: Iterator[Scene3d]) -> None:
    """A recording that plays two frames per second, as they were taken."""
    import viser

    with redirect_stdout(io.StringIO()):  # it greets, and our stdout names files
        server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
    try:
        server.initial_camera.position, server.initial_camera.look_at = EYE, TARGET
        recorder, shown = server.get_scene_serializer(), {}
        for scene in scenes:
            drawn = {
                name: _add_to_viser(server.scene, name, shape)
                for layer in scene.layers
                for name, shape in ((f"/{layer.name}/{part}", shape) for part, shape in enumerate(layer.shapes))
            }
            for name in shown.keys() - drawn.keys():
                shown[name].remove()
            shown = drawn
            recorder.insert_sleep(_SECONDS_PER_FRAME)
        path.write_bytes(recorder.serialize())
    finally:
        with redirect_stdout(io.StringIO()):
            server.stop()


def _add_to_viser(scene: Any, name: str, shape: Shape) -> Any:
    import trimesh

    colours = _bytes(shape.colours)
    if isinstance(shape, Points):
        return scene.add_point_cloud(name, shape.positions.astype(np.float32), colours, point_size=0.06)
    if isinstance(shape, Lines):
        both_ends = np.repeat(colours[:, None], 2, axis=1)
        return scene.add_line_segments(name, shape.positions[shape.ends].astype(np.float32), both_ends)
    mesh = trimesh.Trimesh(shape.positions, shape.corners, vertex_colors=colours, process=False)
    return scene.add_mesh_trimesh(name, mesh)


def _bytes(colours: np.ndarray) -> np.ndarray:
    return (255 * np.clip(colours, 0, 1)).astype(np.uint8)
