"""The window of `bev-vis view`: shapes drawn by open3d, keys handed to the browser."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .geometry import looking_at
from .scene import EYE, TARGET, Lines, Points, Shape, Triangles
from .view import LAYERS, Browser, say

try:
    import open3d as o3d
except (ImportError, OSError) as error:  # OSError: a library of the system that it needs is missing
    raise ValueError(
        f'bev-vis view needs open3d ({error}): pip install "bev-vis[view]", and on Debian '
        "apt-get install libegl1 libgl1 libusb-1.0-0 libgomp1"
    ) from None

o3d.utility.set_verbosity_level(o3d.utility.VerbosityLevel.Error)  # else it writes to stdout

_LINES = ("dark boxes: ground truth", "line from a box: way of one second", "blue line: way of the vehicle")
_SIZE, _LEGEND_WIDTH, _ROW = (1280, 800), 400, 16  # pixels
_REST_S = 0.01  # between looks for keys: a window that never waits would take a whole core
_FOCAL_PIXELS = 850.0
_RIGHT, _LEFT, _UP, _DOWN = 262, 263, 265, 264  # GLFW's numbers of the arrow keys


class Window:
    """Shows what a browser is at; ``visible=False`` draws without a display."""

    def __init__(self, browser: Browser, *, visible: bool = True) -> None:
        self.browser = browser
        self._legend: Any = None  # a second window, while it is open
        self._window = o3d.visualization.VisualizerWithKeyCallback()
        width, height = _SIZE
        if not self._window.create_window("bev-vis", width=width, height=height, visible=visible):
            raise ValueError(
                "open3d cannot open a window: on Debian apt-get install libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri"
            )
        options = self._window.get_render_option()
        options.point_size, options.line_width = 1.5, 3.0
        options.background_color = np.array((1.0, 1.0, 1.0))
        options.mesh_show_back_face = True
        self._show(first=True)

    def run(self) -> None:
        """Until it is closed."""
        for key, _, action in self._keys():
            self._window.register_key_callback(key, partial(self._pressed, action))
        say("keys\n" + "\n".join(self.help()))
        while self._window.poll_events():
            if self._legend is not None and not self._legend.poll_events():
                self._close_legend()
            time.sleep(_REST_S)
        if self._legend is not None:
            self._close_legend()
        self._window.destroy_window()

    def write(self, path: Path) -> None:
        """One view, with legend and title, as a picture."""
        self._window.poll_events()
        self._window.update_renderer()
        pixels = np.asarray(self._window.capture_screen_float_buffer(do_render=True))
        self._window.destroy_window()
        image = Image.fromarray((255 * pixels).astype(np.uint8))
        _draw_legend(image, self.browser)
        image.save(path)

    def help(self) -> list[str]:
        """All keys, a line each."""
        keys = [f"{_name(key):>7}  {what}" for key, what, _ in self._keys()]
        return [*keys, "      Q  quit", "  mouse  turns; its wheel zooms; with Ctrl it moves"]

    def _keys(self) -> list[tuple[int, str, Callable[[], object]]]:
        browser = self.browser
        layers = [
            (ord(str(number)), f"{'show' if name in browser.hidden else 'hide'} {name}", partial(browser.toggle, name))
            for number, name in enumerate(LAYERS, 1)
        ]
        return [
            (_RIGHT, "next frame", partial(browser.step, 1)),
            (_LEFT, "frame before", partial(browser.step, -1)),
            (_UP, "next scene", partial(browser.step_scene, 1)),
            (_DOWN, "scene before", partial(browser.step_scene, -1)),
            *layers,
            (ord("."), "score threshold up", partial(browser.change_threshold, 1)),
            (ord(","), "score threshold down", partial(browser.change_threshold, -1)),
            (ord("W"), "worst frame, then the next worst", browser.next_worst),
            (ord("H"), "open or close the legend", self._toggle_legend),
        ]

    def _pressed(self, action: Callable[[], object], _: Any) -> bool:
        action()
        self._show()
        return True

    def _show(self, first: bool = False) -> None:
        scene = self.browser.scene()
        self._window.clear_geometries()
        for layer in scene.layers:
            for shape in layer.shapes:
                self._window.add_geometry(_geometry(shape), reset_bounding_box=first)
        for line in (self.browser.title, *scene.messages):
            say(line)
        if first:
            self._look()
        if self._legend is not None:
            self._write_legend()

    def _toggle_legend(self) -> None:
        """The window draws no text: the legend, with title and keys, is a picture in a window beside it."""
        if self._legend is not None:
            self._close_legend()
            return
        self._legend = o3d.visualization.Visualizer()
        picture = self._legend_picture()
        self._legend.create_window("bev-vis legend", width=picture.width, height=picture.height)

    def _write_legend(self) -> None:
        self._legend.clear_geometries()
        self._legend.add_geometry(o3d.geometry.Image(np.asarray(self._legend_picture())))

    def _close_legend(self) -> None:
        self._legend.destroy_window()
        self._legend = None

    def _legend_picture(self) -> Image.Image:
        keys, above = self.help(), len(self.browser.legend()) + len(_LINES) + 3
        image = Image.new("RGB", (_LEGEND_WIDTH, _ROW * (above + len(keys) + 1)), "white")
        _draw_legend(image, self.browser)
        for row, line in enumerate(keys, above):
            key, what = line.split(maxsplit=1)
            ImageDraw.Draw(image).text((14, _ROW * row), key, fill="black")
            ImageDraw.Draw(image).text((64, _ROW * row), what, fill="black")
        return image

    def _look(self) -> None:
        """From behind and above, as the picture of voxels does."""
        eye = np.array(EYE)
        turn, pose = looking_at(eye, np.array(TARGET)), np.eye(4)
        camera = o3d.camera.PinholeCameraParameters()
        pose[:3, :3], pose[:3, 3] = turn, -turn @ eye
        width, height = _SIZE
        camera.intrinsic = o3d.camera.PinholeCameraIntrinsic(
            width, height, _FOCAL_PIXELS, _FOCAL_PIXELS, width / 2 - 0.5, height / 2 - 0.5
        )
        camera.extrinsic = pose
        self._window.get_view_control().convert_from_pinhole_camera_parameters(camera, allow_arbitrary=True)


def _geometry(shape: Shape) -> Any:
    vectors, pairs = o3d.utility.Vector3dVector, o3d.utility.Vector2iVector
    if isinstance(shape, Points):
        cloud = o3d.geometry.PointCloud(vectors(shape.positions))
        cloud.colors = vectors(shape.colours)
        return cloud
    if isinstance(shape, Lines):
        lines = o3d.geometry.LineSet(vectors(shape.positions), pairs(shape.ends.astype(np.int32)))
        lines.colors = vectors(shape.colours)
        return lines
    return _mesh(shape)


def _mesh(shape: Triangles) -> Any:
    vectors, triples = o3d.utility.Vector3dVector, o3d.utility.Vector3iVector
    mesh = o3d.geometry.TriangleMesh(vectors(shape.positions), triples(shape.corners.astype(np.int32)))
    mesh.vertex_colors = vectors(shape.colours)  # without normals it is drawn as it is, not lit once more
    return mesh


def _draw_legend(image: Image.Image, browser: Browser) -> None:
    draw = ImageDraw.Draw(image)
    entries = browser.legend()
    draw.rectangle((6, 4, 250, 40 + 16 * (len(entries) + len(_LINES))), fill="white")
    draw.text((14, 10), browser.title.replace("≥", ">="), fill="black")
    for row, (name, colour) in enumerate(entries):
        top = 32 + 16 * row
        draw.rectangle((14, top, 34, top + 10), fill=tuple(round(255 * part) for part in colour))
        draw.text((42, top), name.replace("_", " "), fill="black")
    for row, text in enumerate(_LINES, len(entries)):
        draw.text((14, 32 + 16 * row), text, fill="black")


def _name(key: int) -> str:
    return {_RIGHT: "right", _LEFT: "left", _UP: "up", _DOWN: "down"}.get(key) or chr(key)
