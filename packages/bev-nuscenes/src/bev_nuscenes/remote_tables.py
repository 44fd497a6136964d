"""The tables of a remote data set: copied to this machine once, because the devkit reads folders."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from .errors import DataError
from .files import atomic_write, exclusive, read_bytes, user_cache
from .remote import FileFacts, RemotePath

__all__ = ["copied_tables", "remote_facts"]


def remote_facts(root: RemotePath, names: tuple[str, ...], optional: str) -> dict[str, FileFacts]:
    """Size and stamp of files under a root, by name; of the optional one only if it is there.

    Raises:
        DataError: a file is missing, or the store does not answer.
    """
    facts, missing = {}, []
    for name in (*names, optional):
        try:
            facts[name] = (root / name).facts()
        except FileNotFoundError:
            missing += [] if name == optional else [name]
        except OSError as error:
            raise DataError(f"{root / name} cannot be read: {error}") from None
    if missing:
        raise DataError(
            f"{root} lacks {', '.join(missing)}; give the URL of what holds samples/ and the version's folder"
        )
    return facts


def copied_tables(root: RemotePath, version: str, facts: dict[str, FileFacts]) -> Path:
    """A folder of this machine with the files that ``facts`` names, and the masks of the maps, kept until they change.

    Raises:
        DataError: a file cannot be read, or the folder not be written.
    """
    folder = user_cache() / "tables" / f"{version}-{hashlib.sha256(root.url.encode()).hexdigest()[:12]}"
    mark, stamp = folder / "facts.json", json.dumps(facts)
    with exclusive(mark):
        if not mark.is_file() or mark.read_text() != stamp:
            mark.unlink(missing_ok=True)
            for name, fact in facts.items():
                _copy(root, name, folder, fact.size)
            for name in _masks(folder / version / "map.json"):
                _copy(root, name, folder, 0)
            mark.write_text(stamp)  # last: without it the folder is not whole
    return folder


def _copy(root: RemotePath, name: str, folder: Path, size: int) -> None:
    """Copy one file; a large one has the time that a megabyte per second takes."""
    access = replace(root.access, cache=None, timeout_s=root.access.timeout_s + size / 1e6)
    source = RemotePath(root.url, access) / name
    data = read_bytes(source, "file", "upload the metadata with the masks of its maps")
    with atomic_write(folder / name, "wb") as file:
        file.write(data)


def _masks(path: Path) -> list[str]:
    """Names of the map masks, without which the devkit does not open."""
    try:
        return sorted({record["filename"] for record in json.loads(path.read_bytes())})
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}, a copy of the remote table, is no table of maps; upload the metadata again") from None
