"""Reading the boxes of one sample from a nuScenes detection submission (the results JSON)."""

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from bev_nuscenes import ATTRIBUTES, CLASSES
from bev_nuscenes.geometry import quaternion_to_matrix

from .frame import Boxes
from .geometry import Array

Records = list[dict[str, Any]]


def read_submission(path: Path) -> dict[str, Records]:
    """The records of a submission by sample token. Raises ValueError for anything else than a submission."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"results file {path} is missing: bev-eval writes one, or give --checkpoint instead") from None
    except OSError as error:
        raise ValueError(
            f"results file {path} cannot be read ({error.strerror}): give a nuScenes results JSON"
        ) from None
    except ValueError as error:
        raise ValueError(f"results file {path} is not JSON ({error}): give a nuScenes results JSON") from None
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict) or not all(isinstance(records, list) for records in results.values()):
        raise ValueError(
            f"results file {path} is not a nuScenes submission: wanted an object with 'results', "
            f"which maps sample tokens to lists of boxes; it is {_what_came(content)}"
        )
    return results


def boxes_of_sample(results: dict[str, Records], token: str) -> Boxes:
    """The boxes (global) of one sample. Raises ValueError if it is not there or a record is not a box."""
    if token not in results:
        raise ValueError(_absent(results, token))
    records = results[token]
    try:
        return _boxes(records)
    except (KeyError, TypeError, ValueError) as error:
        what = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"a box of sample {token} in the results is not a nuScenes detection box: {what}") from None


def attribute_number(name: str) -> int:
    """Position of an attribute in bev_nuscenes.ATTRIBUTES, -1 for none or one that is not known."""
    return ATTRIBUTES.index(name) if name in ATTRIBUTES else -1


def _boxes(records: Records) -> Boxes:
    size_wlh = _column(records, "size", 3)
    velocity = _column(records, "velocity", 2, may_be_nan=True)
    return Boxes(
        center=_column(records, "translation", 3),
        size=size_wlh[:, [1, 0, 2]],
        rotation=quaternion_to_matrix(_column(records, "rotation", 4)),
        velocity=np.concatenate([velocity, np.zeros((len(records), 1))], axis=1),
        label=np.array([_label(record["detection_name"]) for record in records], np.int64),
        score=_column(records, "detection_score", 1)[:, 0],
        attribute=np.array([attribute_number(record.get("attribute_name", "")) for record in records], np.int64),
    )


def _column(records: Records, field: str, width: int, may_be_nan: bool = False) -> Array:
    """One field of all records as (M,width)."""
    rows = [np.asarray(record[field], np.float64).reshape(-1) for record in records]
    wrong = next((row for row in rows if row.shape != (width,)), None)
    if wrong is not None:
        raise ValueError(f"'{field}' needs {width} numbers, it has {len(wrong)}")
    column = np.array(rows).reshape(-1, width)
    if not (may_be_nan or np.isfinite(column).all()):
        raise ValueError(f"'{field}' has a value that is not a finite number")
    if field == "rotation" and not column.any(axis=1).all():
        raise ValueError("'rotation' is the zero quaternion")
    return column


def _label(name: str) -> int:
    if name not in CLASSES:
        raise ValueError(f"'detection_name' is {name!r}, it can be one of {', '.join(CLASSES)}")
    return CLASSES.index(name)


def _absent(results: dict[str, Records], token: str) -> str:
    near = get_close_matches(token, results, n=1, cutoff=0.6) or list(results)[:1]
    hint = f"; they hold {len(results)}, for example {near[0]}" if near else "; they are empty"
    return f"sample {token} is not in the results{hint}: choose it with --sample or give the results of its split"


def _what_came(content: Any) -> str:
    return f"one with the keys {sorted(content)[:5]}" if isinstance(content, dict) else f"a {type(content).__name__}"
