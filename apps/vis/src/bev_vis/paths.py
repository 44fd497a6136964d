"""Where files are written to."""

import tempfile
from pathlib import Path


def check_writable(folder: Path) -> None:
    """Make a folder if need be and check that it takes files: known before a model runs for a minute.

    Raises ValueError for a folder that cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder} cannot be written to ({error.strerror}): choose another --out") from None
