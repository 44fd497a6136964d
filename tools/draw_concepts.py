"""The figures of docs/concepts.md, drawn by the packages themselves on a rendered drive.

    python tools/draw_concepts.py                       # renders four key frames into data/concepts first
    python tools/draw_concepts.py --only stereo box
    python tools/draw_concepts.py --cameras-of DATA     # the pooling figure with the cameras of real nuScenes data

Writes docs/images/concept-NAME.svg, or .png where a figure holds photographs or thousands of points.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from concept_drive import (
    BLUE,
    GREY,
    INPUT_SIZE,
    ORANGE,
    Drive,
    arrow,
    from_above,
    lidar_map,
    open_drive,
    outline,
    rig_of,
)
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from bev_lss import CameraRig, DepthBins, LiftSplat, depth_labels, frustum_points, points_to_ego
from bev_nuscenes import CAMERAS, DataOptions, NuscenesDataset, open_index
from bev_ops import BevGrid, PoolPlan, bev_pool
from bev_temporal import StereoCostVolume, camera_to_previous, now_to_then, previous_views, warp_bev

ROOT = Path(__file__).resolve().parents[1]
GRID = BevGrid(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8), z=(-5.0, 3.0, 8.0))
BINS = DepthBins(1.0, 60.0, 1.0)
LOG_BINS = DepthBins(1.0, 60.0, 1.0, log_spaced=True)
FRONT = CAMERAS.index("CAM_FRONT")


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "concepts", help="the rendered drive")
    parser.add_argument("--cameras-of", type=Path, metavar="DATA", help="v1.0-mini data for the pooling figure")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder of the figures")
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES), help="some of the figures")
    options = parser.parse_args()
    mpl.rcParams.update({"font.size": 9, "axes.titlesize": 10, "svg.hashsalt": "bevkit", "savefig.dpi": 110})
    drive = open_drive(options.data)
    pooled = drive.rig if options.cameras_of is None else _first_rig(options.cameras_of)
    for name in options.only:
        figure = draw_pooling(pooled) if name == "pooling" else FIGURES[name](drive)
        path = options.out / f"concept-{name}.{'svg' if name in VECTORS else 'png'}"
        figure.savefig(path, facecolor="white", metadata={"Date": None} if name in VECTORS else None)
        print(path)


def draw_frames(drive: Drive) -> Figure:
    """Global, ego and camera frames, and the image."""
    figure = Figure((10, 8), layout="constrained")
    axes = figure.subplot_mosaic([["global", "ego"], ["image", "image"]], height_ratios=[1.15, 1])
    _draw_global(axes["global"], drive.rig)
    _draw_ego(axes["ego"], drive.rig)
    _draw_image(axes["image"], drive)
    return figure


def draw_augmentation(drive: Drive) -> Figure:
    """What image_aug and bev_aug do, from one draw of training."""
    figure = Figure((10, 8), layout="constrained")
    axes = figure.subplot_mosaic([["raw", "input"], ["ego", "augmented"]], height_ratios=[1, 1.6])
    homography = drive.augmented.cameras["image_aug"][0, FRONT].double()
    height, width = INPUT_SIZE
    corners = torch.tensor([[0, width, width, 0, 0], [0, 0, height, height, 0], [1, 1, 1, 1, 1]]).double()
    u, v, _ = torch.linalg.solve(homography, corners).numpy()
    axes["raw"].imshow(drive.camera_images[0, FRONT])
    axes["raw"].plot(u, v, color=ORANGE, linewidth=2)
    axes["raw"].plot(u[:1], v[:1], "o", color=ORANGE)
    _pixels(axes["raw"], "raw image, 1600 x 900, and what is cut from it")
    axes["input"].imshow(drive.augmented.images[0, FRONT])
    axes["input"].plot(0, 0, "o", color=ORANGE, clip_on=False)
    _pixels(axes["input"], "network input: image_aug maps raw pixels to these")
    _draw_boxes(axes["ego"], drive.now.boxes, "boxes in the key-ego frame (orange: moving)")
    _draw_boxes(axes["augmented"], drive.augmented.boxes, "boxes in the augmented key-ego frame")
    bev_aug = drive.augmented.cameras["bev_aug"]
    for direction, name in ((0, "x"), (1, "y")):
        tip = (bev_aug[:, direction] * 20).tolist()
        arrow(axes["augmented"], (0, 0), (tip[1], tip[0]), f"old {name}", BLUE)
    return figure


def draw_frustum(drive: Drive) -> Figure:
    """Depth bins of one camera seen from the side, and how far they stand apart."""
    figure = Figure((10, 6), layout="constrained")
    axes = figure.subplot_mosaic([["uniform", "step"], ["log", "step"]], width_ratios=[2.2, 1])
    cameras = drive.rig.frame_cameras(0)
    for name, bins in (("uniform", BINS), ("log", LOG_BINS)):
        points = points_to_ego(frustum_points((16, 44), 16, bins), *cameras.tensors())[0, FRONT, :, :, 22]  # (D, h, 3)
        _draw_side(axes[name], points, f"{bins.count} {name} bins: one image column, 16 feature rows")
    for name, bins, colour in (("uniform", BINS, BLUE), ("log-spaced", LOG_BINS, ORANGE)):
        axes["step"].plot(bins.values(), np.arange(bins.count), ".", color=colour, label=name)
    axes["step"].set(xlabel="depth, metres", ylabel="bin", title="depth of every bin")
    axes["step"].legend()
    axes["step"].grid(alpha=0.3)
    return figure


def draw_pooling(rig: CameraRig) -> Figure:
    """Frustum points from above: how many fall into each cell, and the points themselves."""
    figure = Figure((11, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    points = LiftSplat(1, 1, GRID, BINS, stride=16).points(rig.frame_cameras(0), (16, 44))  # (1, N, D, h, w, 3)
    plan = PoolPlan.from_points(points, GRID)
    ones = torch.ones(points.shape[:-1])
    counts = bev_pool(ones, ones[:, :, :1], plan)[0, 0, 0]  # (Y, X), as axis order says
    from_above(
        left, 51.2, f"{plan.num_points:,} of {ones.numel():,} points in {plan.num_cells:,} of {GRID.num_cells:,} cells"
    )
    shown = left.imshow(counts.T.numpy(), origin="lower", extent=_extent(51.2), norm=LogNorm(1, 300), cmap="viridis")
    figure.colorbar(shown, ax=left, label="points per cell", shrink=0.8)
    left.plot([4, -4, -4, 4, 4], [8, 8, 16, 16, 8], color=ORANGE, linewidth=1.5)
    for camera, colour in zip(range(3), (BLUE, "black", ORANGE), strict=True):
        x, y, _ = points[0, camera].reshape(-1, 3).T.numpy()
        right.plot(y, x, ".", markersize=3, color=colour, label=CAMERAS[camera])
    cells = np.arange(-4, 4.1, 0.8)
    right.set(xlim=(4, -4), ylim=(8, 16), aspect="equal", title="the square: points of three cameras, cells of 0.8 m")
    right.set(xlabel="y, metres", ylabel="x, metres", xticks=cells, yticks=np.arange(8, 16.1, 0.8))
    right.tick_params(labelsize=7)
    right.grid(color=GREY, linewidth=0.7)
    right.legend(loc="upper right", fontsize=8)
    return figure


def draw_alignment(drive: Drive) -> Figure:
    """A past map beside the map of now: not aligned, warped after lifting, lifted with its own poses."""
    figure = Figure((11, 4.5), layout="constrained")
    grid = BevGrid(x=(-32.0, 32.0, 0.4), y=(-32.0, 32.0, 0.4), z=(0.0, 3.0, 3.0))
    now, then = lidar_map(drive.now, drive.rig), lidar_map(drive.then, rig_of(drive.then))
    poses = drive.rig.cam_to_key_ego()
    motion = now_to_then(poses[:, 0, 0], poses[:, 1, 0], drive.rig.bev_aug)
    warped = warp_bev(torch.from_numpy(then)[None, None], motion, grid)[0, 0].numpy()
    during = lidar_map(drive.then, drive.rig, t=1)
    way = float(motion[0, :2, 3].norm())
    titles = (
        f"not aligned: the car drove {way:.1f} m",
        'align="after": map of then, warped',
        'align="during": lifted to now',
    )
    for axes, past, title in zip(figure.subplots(1, 3), (then, warped, during), titles, strict=True):
        from_above(axes, 25.0, title)
        axes.imshow(_two_colours(now, past), origin="lower", extent=_extent(32.0))
    inks = (("now", BLUE), ("half a second before", ORANGE), ("both", "#00291a"))
    figure.legend(
        [axes.plot([], [], "s", color=ink)[0] for _, ink in inks],
        [name for name, _ in inks],
        loc="outside lower center",
        ncols=3,
    )
    return figure


def draw_stereo(drive: Drive) -> Figure:
    """The plane sweep of one pixel: where each depth puts it in the previous image, and how well that matches."""
    figure = Figure((11, 5.2), layout="constrained")
    axes = figure.subplot_mosaic([["now", "cost"], ["then", "cost"]], width_ratios=[2, 1])
    sweep = _Sweep(drive)
    camera, row, column = sweep.clearest_pixel()
    u, v = column * (704 - 1) / 175, row * (256 - 1) / 63
    positions = sweep.positions(camera)[:, row, column]  # (D, 2)
    inside = (positions > 0).all(1) & (positions < torch.tensor([704.0, 256.0])).all(1)
    for name, t in (("now", 0), ("then", 1)):
        axes[name].imshow(_picture(drive.now.images[t, camera]))
    axes["now"].plot(u, v, "o", markersize=12, markerfacecolor="none", markeredgecolor=BLUE, markeredgewidth=3)
    _pixels(axes["now"], f"now, {CAMERAS[camera]}: a pixel")
    dots = axes["then"].scatter(
        *positions[inside].T, c=LOG_BINS.values()[inside], s=14, cmap="autumn", norm=LogNorm(1, 60)
    )
    _pixels(axes["then"], "half a second before: where that pixel lies, by depth")
    figure.colorbar(dots, ax=axes["then"], label="depth, metres", shrink=0.9)
    axes["cost"].plot(LOG_BINS.values(), sweep.matching[0, camera, :, row, column], ".-", color=BLUE, label="matching")
    axes["cost"].axvline(
        float(LOG_BINS.values()[sweep.labels[0, camera, row, column]]), color=GREY, linestyle="--", label="LiDAR"
    )
    axes["cost"].set(
        xlabel="depth, metres", ylabel="softmax of minus the cost", xscale="log", title="cost volume at that pixel"
    )
    axes["cost"].legend()
    return figure


def draw_box(_: Drive) -> Figure:
    """The nine numbers of a box, from above and from the left."""
    figure = Figure((10, 5), layout="constrained")
    above, side = figure.subplots(1, 2)
    box = (9.0, 3.0, 0.9, 4.6, 1.9, 1.7, 0.6, 4.0, -1.0)
    x, y, z, length, _, height, yaw, vx, vy = box
    corners = outline(box)[:, ::-1]  # (6, 2) y, x
    above.plot(*corners.T, color=BLUE, linewidth=1.5)
    above.plot(*corners[:2].T, color=BLUE, linewidth=4)
    above.plot([y, y], [x, x + 3.6], ":", color=GREY)
    turn = np.linspace(0, yaw, 30)
    above.plot(y + 3.2 * np.sin(turn), x + 3.2 * np.cos(turn), color=ORANGE)
    above.plot([y, y + 3.6 * np.sin(yaw)], [x, x + 3.6 * np.cos(yaw)], ":", color=GREY)
    above.plot(y, x, "o", color="black")
    above.plot([y, 1.1], [x, 8.9], color=GREY, linewidth=0.8)
    notes = {"yaw": (4.5, 12.4), "length": (6.2, 8.4), "width": (1.8, 6.3), "centre (x, y, z)": (1.0, 8.8)}
    for words, place in notes.items():
        above.annotate(words, place, color=ORANGE if words == "yaw" else "black")
    arrow(above, (y, x), (y + vy, x + vx), "way of one second (vx, vy)")
    arrow(above, (0, 0), (0, 3), "x")
    arrow(above, (0, 0), (3, 0), "y")
    above.set(xlim=(8, -6), ylim=(-1, 15), aspect="equal", title="from above; the thick edge is the front")
    above.set(xlabel="y, metres (left is positive)", ylabel="x, metres (ahead)")
    _draw_box_side(side, z, length, height)
    return figure


FIGURES: dict[str, Callable[[Drive], Figure]] = {
    "frames": draw_frames,
    "augmentation": draw_augmentation,
    "frustum": draw_frustum,
    "pooling": lambda drive: draw_pooling(drive.rig),
    "alignment": draw_alignment,
    "stereo": draw_stereo,
    "box": draw_box,
}
VECTORS = ("frustum", "box")


class _Sweep:
    """Matching of every pixel of now with then, in patches of 4 x 4 pixels and their colours as features."""

    def __init__(self, drive: Drive) -> None:
        features = torch.nn.functional.pixel_unshuffle(drive.now.images, 4) / 8  # (T, N, 48, 64, 176)
        rig = drive.rig
        self.cameras = (camera_to_previous(rig)[0, 0], rig.intrinsics[0, 0], rig.image_aug[0, 0])  # (N, …) each
        batched = [matrices[None] for matrices in self.cameras]
        self.matching = StereoCostVolume(LOG_BINS)(features[None, 0], features[None, 1], *batched)  # (1, N, D, 64, 176)
        self.labels = depth_labels(drive.now.depth[None], LOG_BINS, 4)  # (1, N, 64, 176)

    def clearest_pixel(self) -> tuple[int, int, int]:
        """Camera, row and column where matching is surest of what LiDAR measured, between 6 and 25 m."""
        depth = LOG_BINS.values()[self.labels.clamp(min=0)]
        near = (self.labels >= 0) & (depth > 6) & (depth < 25)
        near[..., :20] = near[..., -20:] = False  # not at the border of the picture
        right = self.matching.gather(2, self.labels.clamp(min=0)[:, :, None])[:, :, 0] * near
        camera, row, column = np.unravel_index(int(right[0].argmax()), right.shape[1:])
        return int(camera), int(row), int(column)

    def positions(self, camera: int) -> Tensor:
        """Network-input pixel of then of every feature pixel of now at every depth: (D, 64, 176, 2)."""
        views = previous_views(*(matrices[camera : camera + 1] for matrices in self.cameras), (64, 176), 4)
        pixels = torch.cat([views.pixels[0], torch.ones(1, 64, 176)])  # (3, 64, 176)
        rays = torch.einsum("ij,jhw->ihw", views.pixel_to_previous[0], pixels)
        points = rays * LOG_BINS.values()[:, None, None, None] + views.translation[0, :, None, None]  # (D, 3, 64, 176)
        raw = torch.einsum("ij,djhw->dihw", views.intrinsics[0], points / points[:, 2:])
        return torch.einsum("ij,djhw->dhwi", views.image_aug[0], raw)[..., :2]


def _draw_global(axes: Axes, rig: CameraRig) -> None:
    poses = rig.ego_to_global[0, :, 0].double().numpy()  # (T, 4, 4)
    centre = poses[:, :2, 3].mean(axis=0)
    for pose, name, colour in ((poses[1], "then", GREY), (poses[0], "now", "black")):
        place = pose[:2, 3] - centre
        for direction, letter in ((0, "x"), (1, "y")):
            arrow(axes, place, place + 2.5 * pose[:2, direction], letter, colour)
        axes.annotate(f"ego, {name}", place, xytext=(10, -4), textcoords="offset points", color=colour)
    axes.set(xlim=(-6, 6), ylim=(-6, 6), aspect="equal", title="global frame: ego_to_global of two key frames")
    axes.set(xlabel=f"global x, metres from {centre[0]:.0f}", ylabel=f"global y, metres from {centre[1]:.0f}")
    axes.grid(alpha=0.3)


def _draw_ego(axes: Axes, rig: CameraRig) -> None:
    from_above(axes, 9.0, "ego frame: cam_to_ego of six cameras")
    arrow(axes, (0, 0), (0, 7.5), "x", BLUE)
    arrow(axes, (0, 0), (7.5, 0), "y", BLUE)
    for name, cam_to_ego, intrinsics in zip(CAMERAS, rig.cam_to_ego[0, 0], rig.intrinsics[0, 0], strict=True):
        x, y = cam_to_ego[:2, 3].tolist()
        edges = cam_to_ego[:2, :3] @ torch.linalg.inv(intrinsics) @ torch.tensor([[0.0, 1600], [450, 450], [1, 1]])
        for edge in (5 * edges / edges.norm(dim=0)).T.tolist():
            axes.plot([y, y + edge[1]], [x, x + edge[0]], color=ORANGE, linewidth=0.7)
        ahead = (4 * cam_to_ego[:2, 2]).tolist()
        arrow(axes, (y, x), (y + ahead[1], x + ahead[0]), "", ORANGE)
        axes.annotate(name.removeprefix("CAM_"), (y + 1.25 * ahead[1], x + 1.25 * ahead[0]), fontsize=7, ha="center")


def _draw_image(axes: Axes, drive: Drive) -> None:
    axes.imshow(drive.camera_images[0, FRONT])
    rig = drive.rig
    to_image = rig.intrinsics[0, 0, FRONT] @ torch.linalg.inv(rig.cam_to_ego[0, 0, FRONT])[:3]
    for ahead in (8, 12, 20, 40):
        left = torch.linspace(-6, 6, 50)
        u, v, depth = to_image @ torch.stack([torch.full_like(left, ahead), left, torch.zeros(50), torch.ones(50)])
        axes.plot(u / depth, v / depth, color=ORANGE, linewidth=1.5)
        words = {
            "color": ORANGE,
            "fontsize": 8,
            "va": "center",
            "bbox": {"facecolor": "white", "pad": 1.5, "linewidth": 0},
        }
        axes.annotate(f"x = {ahead} m", (1100, v[0] / depth[0]), **words)
    arrow(axes, (30, 60), (230, 60), "u", BLUE)
    arrow(axes, (30, 60), (30, 260), "v", BLUE)
    axes.set(xlim=(0, 1600), ylim=(900, 0), xlabel="u, pixels", ylabel="v, pixels")
    axes.set_title(
        "raw image of CAM_FRONT: lines on the ground (z = 0), y from -6 to 6 m, through cam_to_ego and intrinsics"
    )


def _draw_side(axes: Axes, points: Tensor, title: str) -> None:
    """points (D, h, 3) of one image column, in the ego frame."""
    axes.axhspan(GRID.z[0], GRID.z[1], color=GREY, alpha=0.15, label="inside of the grid, z from -5 to 3 m")
    axes.plot(points[..., 0], points[..., 2], color=BLUE, linewidth=0.3, alpha=0.6)
    axes.plot(points[..., 0].flatten(), points[..., 2].flatten(), ".", color=BLUE, markersize=2)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlim=(0, 62), ylim=(-8, 10), xlabel="x, metres (ahead)", ylabel="z, metres (up)", title=title)
    axes.legend(loc="upper left", fontsize=8)


def _draw_boxes(axes: Axes, boxes: Tensor, title: str) -> None:
    from_above(axes, 51.2, title)
    for box in boxes.tolist():
        axes.plot(*outline(box)[:, ::-1].T, color=ORANGE if max(map(abs, box[7:])) > 0.5 else GREY, linewidth=1.2)
    arrow(axes, (0, 0), (0, 20), "x")
    arrow(axes, (0, 0), (20, 0), "y")


def _draw_box_side(axes: Axes, z: float, length: float, height: float) -> None:
    axes.plot(
        [-length / 2, length / 2, length / 2, -length / 2, -length / 2], z + np.array([-1, -1, 1, 1, -1]) * height / 2
    )
    axes.plot(0, z, "o", color="black")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.annotate("z: of the centre", (0, z), xytext=(8, -4), textcoords="offset points")
    for start, end, name in (
        ((-length / 2, z + height / 2 + 0.25), (length / 2, z + height / 2 + 0.25), "length"),
        ((length / 2 + 0.3, z - height / 2), (length / 2 + 0.3, z + height / 2), "height"),
    ):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "<->", "color": GREY})
        axes.annotate(
            name,
            ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2),
            color=GREY,
            xytext=(4, 4),
            textcoords="offset points",
        )
    axes.set(
        xlim=(-4, 4.5), ylim=(-1, 4), aspect="equal", title="from the side; z = 0 is the ground under the rear axle"
    )
    axes.set(xlabel="along the box, metres", ylabel="z, metres (up)")


def _pixels(axes: Axes, title: str) -> None:
    axes.set(title=title, xlabel="u, pixels", ylabel="v, pixels")


def _picture(image: Tensor) -> np.ndarray:
    """A network input (3, H, W) as a picture: blue is its first channel, and the scale does not matter to the eye."""
    pixels = image.flip(0).movedim(0, -1)
    return ((pixels - pixels.min()) / (pixels.max() - pixels.min())).numpy()


def _two_colours(now: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Maps (Y, X) as a picture from above (X, Y, 3): white paper, blue ink and orange ink."""
    inks = [np.array(mpl.colors.to_rgb(colour)) for colour in (BLUE, ORANGE)]
    paper = np.ones((*now.T.shape, 3))
    for ink, amount in zip(inks, (now, then), strict=True):
        paper *= 1 - amount.T[..., None] * (1 - ink)
    return paper


def _extent(reach: float) -> tuple[float, float, float, float]:
    """Left, right, bottom, top of a picture (X, Y) on axes that look down: y = -reach is its first column."""
    return (-reach, reach, -reach, reach)


def _first_rig(root: Path) -> CameraRig:
    dataset = NuscenesDataset(open_index(DataOptions(root=str(root))), "mini_train", input_size=INPUT_SIZE)
    return rig_of(dataset[0])


if __name__ == "__main__":
    main()
