"""Files that lie elsewhere: any URL that fsspec opens, with patience and a local copy."""

from __future__ import annotations

import asyncio
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from .errors import DataError
from .file_cache import FileCache

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["DataPath", "FileFacts", "RemoteAccess", "RemotePath", "data_path", "is_url"]

_T = TypeVar("_T")

_S3 = ("s3", "s3a")
# Errors of S3 clients that no patience mends.
_PERMANENT = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoRegionError")


class FileFacts(NamedTuple):
    size: int  # bytes
    stamp: str  # changes when the content does: a time or an ETag


@dataclass(frozen=True, kw_only=True)
class RemoteAccess:
    """How remote files are read.

    Attributes:
        cache: where copies are kept; None keeps none.
        attempts: how often a read is tried before it counts as failed.
        first_wait_s: seconds before the second attempt; doubles with each.
        timeout_s: seconds that one attempt may take.
    """

    cache: FileCache | None = None
    attempts: int = 8
    first_wait_s: float = 0.5
    timeout_s: float = 60.0


@dataclass(frozen=True)
class RemotePath:
    """A remote file or folder, with as much of ``pathlib.Path`` as reading a data set takes.

    What is temporary (errors of the server, timeouts, broken connections, answers that are too short) is tried again,
    each time with a warning; what is not (no such file, no permission) is an error at once.
    """

    url: str
    access: RemoteAccess = field(default=RemoteAccess(), repr=False)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str | os.PathLike[str]) -> RemotePath:
        return RemotePath(f"{self.url.rstrip('/')}/{os.fspath(name)}", self.access)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(self.url).name

    def read_bytes(self) -> bytes:
        """The whole file, of the size that its store says.

        Raises:
            FileNotFoundError: there is none.
            OSError: it could not be read, however often it was tried.
        """
        cache = self.access.cache
        data = None if cache is None else cache.get(self.url)
        if data is None:
            data = self._patiently(self._read)
            if cache is not None:
                cache.put(self.url, data)
        return data

    def facts(self) -> FileFacts:
        """Size and stamp; raises as ``read_bytes``."""
        info = self._patiently(self._info)
        stamp = next((info[name] for name in ("ETag", "etag", "mtime", "LastModified", "created") if name in info), "")
        return FileFacts(int(info["size"] or 0), str(stamp))

    def is_file(self) -> bool:
        """Whether there is such a file."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether there is such a folder, in stores that know folders, or anything below that name."""
        return self._kind() == "directory"

    def _kind(self) -> str | None:
        try:
            return self._patiently(self._info)["type"]
        except FileNotFoundError:
            return None

    def _read(self) -> bytes:
        filesystem, path = _filesystem(self.url, self.access)
        if filesystem.async_impl:
            info, data = _in_time(filesystem, self.access, filesystem._info(path), filesystem._cat_file(path))
        else:
            info, data = filesystem.info(path), filesystem.cat_file(path)
        if info.get("size") is not None and len(data) != info["size"]:
            raise OSError(f"{len(data)} bytes came of {info['size']}")
        return data

    def _info(self) -> dict[str, Any]:
        filesystem, path = _filesystem(self.url, self.access)
        if filesystem.async_impl:
            return _in_time(filesystem, self.access, filesystem._info(path))[0]
        return filesystem.info(path)

    def _patiently(self, read: Callable[[], _T]) -> _T:
        for attempt in range(1, self.access.attempts + 1):
            try:
                return read()
            except (FileNotFoundError, PermissionError, ImportError, TypeError, DataError):
                raise
            except Exception as error:  # every store has its own kinds
                reason = " ".join(f"{type(error).__name__} {error}".split())
                if type(error).__name__ in _PERMANENT:
                    raise PermissionError(reason) from error
                if attempt == self.access.attempts:
                    raise OSError(f"{reason}; tried {attempt} times") from error
                wait = self.access.first_wait_s * 2 ** (attempt - 1)
                warnings.warn(
                    f"{self.url}: {reason}; attempt {attempt} of {self.access.attempts}, again in {wait:g} s",
                    stacklevel=4,
                )
                time.sleep(wait)
        raise ValueError(f"at least one attempt is needed, got {self.access.attempts}")


DataPath: TypeAlias = "Path | RemotePath"


def is_url(root: str | os.PathLike[str] | RemotePath) -> bool:
    """Whether a root names a remote store."""
    return "://" in str(root)


def data_path(root: str | os.PathLike[str] | RemotePath, access: RemoteAccess | None = None) -> DataPath:
    """The path of a root: of this machine, or remote if it is a URL."""
    if isinstance(root, RemotePath):
        return root
    return RemotePath(str(root), access or RemoteAccess()) if is_url(root) else Path(root)


# Clients hold threads and connections, which a forked process must not share: each process has its own.
_FILESYSTEMS: dict[tuple[int, str], AbstractFileSystem] = {}


def _filesystem(url: str, access: RemoteAccess) -> tuple[AbstractFileSystem, str]:
    """This process's client for a URL, and the path within it."""
    try:
        from fsspec.core import split_protocol
        from fsspec.registry import get_filesystem_class
    except ModuleNotFoundError:
        raise ImportError(f'reading {url} needs fsspec: pip install "bev-nuscenes[remote]"') from None
    protocol, _ = split_protocol(url)
    try:
        kind = get_filesystem_class(protocol)
    except ValueError as error:
        raise DataError(f"{url}: {error}; is the URL right?") from None
    key = os.getpid(), url.split("://")[0] + "://" + url.split("://")[1].partition("/")[0]
    if key not in _FILESYSTEMS:
        told = kind._get_kwargs_from_urls(url)
        _FILESYSTEMS[key] = kind(**told, **_client_options(protocol, access), skip_instance_cache=True)
        if protocol in _S3:
            _FILESYSTEMS[key].retries = 1  # s3fs would try again without a word
    return _FILESYSTEMS[key], kind._strip_protocol(url)


def _client_options(protocol: str, access: RemoteAccess) -> dict[str, Any]:
    """Timeouts, where the client takes them, and no retries of its own."""
    if protocol not in _S3:
        return {}
    wait = access.timeout_s / 2
    return {
        "config_kwargs": {"connect_timeout": wait, "read_timeout": wait, "retries": {"total_max_attempts": 1}},
        "max_concurrency": 1,  # a file in one request; s3fs would ask for the size of each first, as we do
        "use_listings_cache": False,
    }


def _in_time(filesystem: Any, access: RemoteAccess, *calls: Any) -> list[Any]:
    """Results of coroutines of a client, run at once, within the time that an attempt may take."""
    from fsspec.asyn import sync

    async def together() -> list[Any]:
        return await asyncio.gather(*calls)

    return sync(filesystem.loop, together, timeout=access.timeout_s)
