"""The program ``bev-doctor``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from .files import check_checkpoint, check_data
from .finding import Finding, State, as_text
from .machine import check_gpus, check_kernels, check_machine
from .software import check_software

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at everything that was asked for; 0 without a problem, else 1."""
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what matters is said as a finding
        findings = _findings(options)
    print(json.dumps([dataclasses.asdict(f) for f in findings], indent=2) if options.json else as_text(findings))
    return int(any(finding.state is State.PROBLEM for finding in findings))


def _findings(options: argparse.Namespace) -> list[Finding]:
    findings = [*check_software(), *check_machine(), *check_gpus(), *check_kernels(load=options.compile)]
    if options.data is not None:
        findings += check_data(options.data, options.version)
    for path in options.checkpoint:
        findings += check_checkpoint(path, options.recipe)
    return findings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bev-doctor",
        description="Print versions, kernels, GPUs, and the health of a data set and of checkpoints, with what to do "
        "about each problem. Exits with 1 if there is one.",
    )
    parser.add_argument("--data", metavar="DIR", help="look at a data set: the folder that holds samples/")
    parser.add_argument("--version", default="v1.0-mini", help="its version (default: %(default)s)")
    parser.add_argument(
        "--checkpoint", metavar="FILE", type=Path, nargs="+", default=[], help="look at checkpoints, ours or published"
    )
    parser.add_argument("--recipe", metavar="NAME", help="the system that they are of (default: recognised)")
    parser.add_argument("--compile", action="store_true", help="load the kernels now, and compile them if need be")
    parser.add_argument("--json", action="store_true", help="as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
