"""Copies of remote files in a folder of bounded size, shared by any number of processes."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .unfinished import claim, remove_abandoned

if sys.platform != "win32":
    import fcntl

__all__ = ["FileCache"]

_DIGEST = 32  # bytes of SHA-256 in front of every copy
_KEPT = 0.9  # of the bound, after room was made
_ABANDONED = 600.0  # seconds after which a file that is still being written may be one of a killed process


@dataclass(frozen=True)
class FileCache:
    """Keeps whole files; those that were not used for longest go first.

    A copy carries a checksum and is thrown away, with a warning, where it no longer fits. What is in the folder counts
    as current: delete the folder when files have changed at their source.

    Attributes:
        folder: where the copies are.
        max_bytes: what they may take together.
    """

    folder: Path
    max_bytes: int

    def get(self, url: str) -> bytes | None:
        """The copy of a file, or None."""
        path = self._path(url)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        with suppress(OSError):  # a copy of somebody else's
            os.utime(path)
        data = content[_DIGEST:]
        if hashlib.sha256(data).digest() == content[:_DIGEST]:
            return data
        warnings.warn(f"the copy of {url} in {path} is damaged and is fetched again", stacklevel=3)
        with suppress(OSError):
            path.unlink()
        return None

    def put(self, url: str, data: bytes) -> None:
        """Keep a copy, unless it takes more than a quarter of the room; where it cannot be written, only warn."""
        if 4 * len(data) > self.max_bytes:
            return
        path = self._path(url)
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                claim(file)
                file.write(hashlib.sha256(data).digest() + data)
            with self._total() as total:
                # Room first: the folder never holds more than it may.
                length = _DIGEST + len(data)
                total.value += length
                if total.value > self.max_bytes:
                    total.value = self._make_room(length) + length
                temporary.replace(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            warnings.warn(f"no copy of {url} is kept in {self.folder}: {error.strerror}", stacklevel=3)

    def _path(self, url: str) -> Path:
        digest = hashlib.sha256(url.encode()).hexdigest()
        return self.folder / digest[:2] / digest

    def _make_room(self, wanted: int) -> int:
        """Delete the oldest copies until ``wanted`` bytes fit well; the bytes that are left."""
        remove_abandoned(self._old_parts())
        found = sorted((facts.st_mtime_ns, facts.st_size, path) for path, facts in self._copies())
        used = sum(size for _, size, _ in found)
        for _, size, path in found:
            if used + wanted <= _KEPT * self.max_bytes:
                break
            path.unlink(missing_ok=True)
            used -= size
        return used

    def _copies(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob("??/*"):
            if path.suffix != ".part":
                yield path, path.stat()

    def _old_parts(self) -> Iterator[Path]:
        for path in self.folder.glob("??/*.part"):
            with suppress(OSError):  # finished meanwhile
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    yield path

    @contextmanager
    def _total(self) -> Iterator[_Number]:
        """Bytes of all copies, to be changed by one process at a time."""
        with (self.folder / "bytes").open("a+") as file:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            total = _Number(int(text) if text.isdecimal() else sum(facts.st_size for _, facts in self._copies()))
            yield total
            file.seek(0)
            file.truncate()
            file.write(str(total.value))


@dataclass
class _Number:
    value: int
