"""A YAML or JSON document whose fields know where they stand, so that an error can name them."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import yaml

from ..errors import DataError
from ..files import read_bytes
from ..geometry import pose_matrix
from .problems import Problem

__all__ = ["Field", "open_document"]

Result = TypeVar("Result")
_TOLERANCE = 1e-3  # of rotations: single precision and three printed digits pass, a wrong axis does not


class _Unusable(Exception):
    """A field is not what it should be; the problem is noted already."""


class Field:
    """One value of the document.

    Args:
        value: what was parsed.
        place: where it stands, for instance ``scenes.drive-1.frames[3].timestamp``.
        file: the document.
        problems: where problems are noted.
    """

    def __init__(self, value: Any, place: str, file: Path, problems: list[Problem]) -> None:
        self.value, self.place, self.file, self.problems = value, place, file, problems

    def fail(self, message: str) -> NoReturn:
        """Note an error and leave the enclosing ``attempt``."""
        self.note(message)
        raise _Unusable

    def note(self, message: str) -> None:
        """Note an error and go on."""
        self.problems.append(Problem("error", self.file, self.place, message))

    def attempt(self, read: Callable[[Field], Result]) -> Result | None:
        """What ``read`` makes of this field; None if it cannot be used, which is noted."""
        try:
            return read(self)
        except _Unusable:
            return None

    def expect_only(self, *names: str) -> None:
        """Note every field of this mapping that has none of the names."""
        for name in self._mapping():
            if str(name) not in names:
                close = difflib.get_close_matches(str(name), names, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"
                self.note(f"unknown field {name!r}; {hint}")

    def __getitem__(self, name: str) -> Field:
        found = self.get(name)
        if found is None:
            self.fail(f"field {name!r} is missing")
        return found

    def get(self, name: str) -> Field | None:
        """Field of a mapping; None where it is left out or null."""
        value = self._mapping().get(name)
        return None if value is None else self._at(value, f"{self.place}.{name}" if self.place else name)

    def entries(self) -> list[tuple[str, Field]]:
        """Fields of a mapping, in the order of the file."""
        return [(str(name), self._at(value, f"{self.place}.{name}")) for name, value in self._mapping().items()]

    def elements(self, label: Callable[[int, Any], str] = lambda number, _: f"[{number}]") -> list[Field]:
        """Elements of a list; ``label`` names their place."""
        if not isinstance(self.value, list):
            self.fail(f"a list is needed, got {_brief(self.value)}")
        return [self._at(value, self.place + label(number, value)) for number, value in enumerate(self.value)]

    def text(self, choices: Sequence[str] | None = None) -> str:
        """A text, one of ``choices`` if given; a number counts as text."""
        if isinstance(self.value, bool) or not isinstance(self.value, (str, int, float)) or self.value == "":
            self.fail(f"a text is needed, got {_brief(self.value)}")
        text = str(self.value)
        if choices is not None and text not in choices:
            self.fail(f"one of {', '.join(choices)} is needed, got {text!r}")
        return text

    def number(self) -> float:
        """A finite number."""
        return float(self.numbers())

    def numbers(self, *shape: int) -> np.ndarray:
        """Finite numbers (*shape) float64. YAML takes 1e-3 for a text (it wants 1.0e-3), which is forgiven."""
        try:
            array = np.array(self.value, dtype=np.float64)
        except (TypeError, ValueError):
            self.fail(f"{_wanted(shape)} needed, got {_brief(self.value)}")
        if array.shape != shape or not np.isfinite(array).all() or isinstance(self.value, bool):
            self.fail(f"{_wanted(shape)} needed, got {_brief(self.value)}")
        return array

    def pose(self) -> np.ndarray:
        """A rigid transform (4, 4): four rows of four, or {rotation: [w, x, y, z], translation: [x, y, z]}."""
        if isinstance(self.value, dict):
            self.expect_only("rotation", "translation")
            return pose_matrix(self["rotation"]._quaternion(), self["translation"].numbers(3))
        matrix = self.numbers(4, 4)
        self._check_rigid(matrix)
        return matrix

    def _quaternion(self) -> np.ndarray:
        if isinstance(self.value, list) and len(self.value) == 3:
            self.fail("a quaternion [w, x, y, z] is needed, got three numbers; angles must be converted")
        quaternion = self.numbers(4)
        norm = np.linalg.norm(quaternion)
        if abs(norm - 1) > _TOLERANCE:
            self.fail(f"a unit quaternion [w, x, y, z] is needed, got one of length {norm:.4g}")
        return quaternion

    def _check_rigid(self, matrix: np.ndarray) -> None:
        rotation = matrix[:3, :3]
        if not np.allclose(matrix[3], (0, 0, 0, 1), atol=1e-9):
            self.fail(
                f"the last row must be 0 0 0 1, got {matrix[3].tolist()}; is the matrix transposed? "
                "the translation is the last column"
            )
        error = np.abs(rotation @ rotation.T - np.eye(3)).max()
        if error > _TOLERANCE:
            self.fail(
                f"the upper left 3x3 must be a rotation (R R^T = 1), it is off by {error:.3g}; does it hold a scale, "
                "or too few digits?"
            )
        if np.linalg.det(rotation) < 0:
            self.fail("the rotation mirrors (determinant -1): one axis points the wrong way, frames are right-handed")

    def _mapping(self) -> dict:
        if not isinstance(self.value, dict):
            self.fail(f"fields with names are needed, got {_brief(self.value)}")
        return self.value

    def _at(self, value: Any, place: str) -> Field:
        return Field(value, place, self.file, self.problems)


def open_document(path: Path, problems: list[Problem]) -> Field:
    """The document in a ``.json``, ``.yaml`` or ``.yml`` file.

    Raises:
        DataError: the file is missing or cannot be parsed.
    """
    data = read_bytes(path, "file", "docs/own-data.md says what belongs in it")
    try:
        content = json.loads(data, object_pairs_hook=_once_each) if path.suffix == ".json" else _yaml(data)
    except (ValueError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise DataError(f"{path} is not valid {'JSON' if path.suffix == '.json' else 'YAML'}: {text}") from None
    return Field(content, "", path, problems)


def _yaml(data: bytes) -> Any:
    """The first document; ROS's tools end each with a line that opens another."""
    return next(iter(yaml.load_all(data, _Loader)), None)


# The parser in C is ten times as fast; a wheel of PyYAML has it, a build from source may not.
_Base: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """Leaves names as they are that YAML takes for dates (2024-01-05) or numbers (0010 for 8, 2011_09_26, 12:30).

    A name may occur once in a mapping; what ``<<`` merges into it may repeat it.
    """

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self._flattened: set[int] = set()  # ids of nodes, which live as long as the document is read

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge what ``<<`` names into a mapping, once its own names were looked at."""
        if id(node) not in self._flattened:
            self._flattened.add(id(node))
            names: set[str] = set()
            for name, _ in node.value:
                if isinstance(name.value, str) and name.value in names:
                    raise yaml.constructor.ConstructorError(None, None, f"{name.value!r} occurs twice", name.start_mark)
                names.add(str(name.value))
        super().flatten_mapping(node)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice in one object")
    return content


_INTEGER, _DATE = "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INTEGER, _DATE)]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INTEGER, re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))


def _wanted(shape: tuple[int, ...]) -> str:
    if not shape:
        return "a finite number is"
    return f"{' x '.join(map(str, shape))} finite numbers are"


def _brief(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
