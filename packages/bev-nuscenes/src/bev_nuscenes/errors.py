"""The error that every mistake in the data raises."""

from __future__ import annotations

__all__ = ["DataError"]


class DataError(ValueError):
    """The data set, a file in it, an index or a submission is not what it should be.

    The message is one line: what was wanted, what was found, what to do.
    """
