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
        """Append a picture (H,W,3)."""

    def close(self) -> None:
        """Write what is left."""


def open_film(path: Path, fps: float) -> Film:
    """A film of the kind that the name ends in. Raises ValueError for an MP4 where nothing can write one."""
    return Gif(path, fps) if path.suffix.lower() == ".gif" else Mp4(path, fps)


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

    def add(self, pixels: NDArray[np.uint8]) -> None:
        height, width = (side // 2 * 2 for side in pixels.shape[:2])  # the format wants even sides
        if self._writer is None:
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
        self._pictures.append(Image.fromarray(pixels).quantize(256, dither=Image.Dither.NONE))

    def close(self) -> None:
        if self._pictures:
            first, *rest = self._pictures
            first.save(self._path, save_all=True, append_images=rest, duration=self._duration_ms, loop=0)
