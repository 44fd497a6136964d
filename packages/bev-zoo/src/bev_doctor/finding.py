"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "State", "as_text"]


class State(str, Enum):
    """How serious it is."""

    OK = "ok"
    NOTE = "note"  # works, but less than it could; or is wanted by some only
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do.

    Attributes:
        topic: the section it belongs to, such as "software".
        state: how serious it is.
        what: one line.
        advice: what to do about it; empty where nothing needs doing.
    """

    topic: str
    state: State
    what: str
    advice: str = ""


def as_text(findings: list[Finding]) -> str:
    """All findings by topic, advice under what it is about, and a last line that counts."""
    lines: list[str] = []
    for topic in dict.fromkeys(finding.topic for finding in findings):
        lines.append(topic)
        for finding in (f for f in findings if f.topic == topic):
            lines.append(f"  {finding.state.value:<8} {finding.what}")
            lines += [f"           -> {finding.advice}"] if finding.advice else []
    counts = {state: sum(finding.state is state for finding in findings) for state in State}
    problems, notes = counts[State.PROBLEM], counts[State.NOTE]
    lines.append(f"{_count(problems, 'problem')}, {_count(notes, 'note')}, {counts[State.OK]} in order")
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
