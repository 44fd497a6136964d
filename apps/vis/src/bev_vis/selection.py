"""Which frames of a split are meant."""

from collections.abc import Sequence
from difflib import get_close_matches

from .source import Source


def chosen_frames(source: Source, *, sample: str | None, samples: str | None = None, scene: str | None = None) -> range:
    """Places in the split: of one sample, of several in a row, or of a scene; of the first sample if nothing is said.

    Raises ValueError for a sample or scene that the split does not have, and for more than one choice.
    """
    given = [f"--{name}" for name, value in (("sample", sample), ("samples", samples), ("scene", scene)) if value]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other: give one of them")
    if samples is not None:
        return find_samples(samples, len(source.tokens), source.split)
    if scene is not None:
        return find_scene(scene, source.scenes, source.split)
    position = find_sample(sample or "0", source.tokens, source.split)
    return range(position, position + 1)


def find_sample(wanted: str, tokens: Sequence[str], split: str) -> int:
    """The position of a sample that is given by its position or its token."""
    if wanted in tokens:
        return tokens.index(wanted)
    if not tokens:
        raise ValueError(f"split {split} has no sample in this data set: choose another --data.split")
    if wanted.lstrip("-").isdigit() and len(wanted) < 9:
        if 0 <= int(wanted) < len(tokens):
            return int(wanted)
        raise ValueError(f"--sample {wanted} is out of range: {split} has the samples 0 to {len(tokens) - 1}")
    near = (get_close_matches(wanted, tokens, n=1, cutoff=0.6) or list(tokens))[0]
    raise ValueError(
        f"--sample {wanted} is not in {split}: give a place, 0 to {len(tokens) - 1}, or a token, for example {near}"
    )


def find_samples(wanted: str, count: int, split: str) -> range:
    """Positions FIRST:END of a split, as Python slices lists, without negative numbers."""
    first, colon, end = wanted.partition(":")
    if not colon or any(part and not part.isdigit() for part in (first, end)):
        raise ValueError(f"--samples wants FIRST:END, for example 0:20, it is {wanted}")
    chosen = range(int(first or 0), min(int(end or count), count))
    if not chosen:
        raise ValueError(f"--samples {wanted} is empty: {split} has the samples 0 to {count - 1}")
    return chosen


def find_scene(wanted: str, scenes: Sequence[str], split: str) -> range:
    """Positions of a scene; its frames stand together, for splits are in order of time."""
    if wanted not in scenes:
        names = list(dict.fromkeys(scenes))
        some = ", ".join(get_close_matches(wanted, names, n=3, cutoff=0.6) or names[:3])
        raise ValueError(f"--scene {wanted} is not in {split}, which has {len(names)} scenes, for example {some}")
    first = scenes.index(wanted)
    return range(first, first + scenes.count(wanted))
