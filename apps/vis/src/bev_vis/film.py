"""Pictures in a row as a film: MP4 or GIF."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FILMS = (".mp4", ".gif")


class Film(Protocol):
    """Takes pictures of one size; the file is whole once it is closed."""

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Append a picture (H,W,3). Raises ValueError if it is not as large as the first."""

    def close(self) -> None:
        """Write what is left."""


def open_film(path: Path, fps: float) -> Film:
    """A film of the kind that the name ends in. Raises ValueError for an MP4 where nothing can write one."""
    return Gif(path, fps) if path.suffix.lower() == ".gif" else Mp4(path, fps)


def _check_size(path: Path, first: tuple[int, int], size: tuple[int, int]) -> None:
    """Refuse another size: where only some frames have true voxels, only theirs have a panel for them."""
    if size != first:
        (width, height), (first_width, first_height) = size, first
        raise ValueError(
            f"{path} wants pictures of one size: the first is {first_width} x {first_height}, one is {width} x "
            f"{height}: name a folder instead, or choose frames that all have ground truth, or all have none"
        )


class Mp4:
    """H.264, in pixels that every player knows (yuv420p)."""

    def __init__(self, path: Path, fps: float) -> None:
        try:
            import imageio_ffmpeg
        except ModuleNotFoundError:
            raise ValueError(
                f'{path.name} needs imageio-ffmpeg: pip install "bev-vis[video]", or name a .gif or a folder'
            ) from None
        self._write_frames, self._path, self._fps = imageio_ffmpeg.write_frames, path, fps
        self._writer: Any = None
        self._size = 0, 0

    def add(self, pixels: NDArray[np.uint8]) -> None:
        height, width = (side // 2 * 2 for side in pixels.shape[:2])  # the format wants even sides
        if self._writer is None:
            self._size = width, height
            self._writer = self._write_frames(
                str(self._path),
                (width, height),
                fps=self._fps,
                codec="libx264",
                quality=7,
                macro_block_size=2,
                ffmpeg_log_level="error",
            )
            self._writer.send(None)
        _check_size(self._path, self._size, (width, height))
        self._writer.send(np.ascontiguousarray(pixels[:height, :width]))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Gif:
    """256 colours, chosen for each picture; repeats for ever."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._duration_ms = path, 1000 / fps
        self._pictures: list[Image.Image] = []

    def add(self, pixels: NDArray[np.uint8]) -> None:
        picture = Image.fromarray(pixels)
        if self._pictures:
            _check_size(self._path, self._pictures[0].size, picture.size)
        self._pictures.append(picture.quantize(256, dither=Image.Dither.NONE))

    def close(self) -> None:
        if self._pictures:
            first, *rest = self._pictures
            first.save(self._path, save_all=True, append_images=rest, duration=self._duration_ms, loop=0)
