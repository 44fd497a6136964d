"""The error that every mistake in the data raises."""

from __future__ import annotations

__all__ = ["DataError", "UnreadableFileError"]


class DataError(ValueError):
    """The data set, a file in it, an index or a submission is not what it should be.

    The message is one line: what was wanted, what was found, what to do.
    """


class UnreadableFileError(DataError):
    """A file of a sample is missing, damaged, or cannot be read.

    Attributes:
        path: of the file, or its URL.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)  # alone, so that it passes from a worker to the main process
        self.path = path
