"""Compiles the pooling kernel of the TensorRT plugin to PTX, which is kept in the package.

    python tools/compile_pool_ptx.py [--out FILE]

Needs nvcc. Run it after a change of packages/bev-deploy/src/bev_deploy/tensorrt/csrc; a test compares checksums.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "packages" / "bev-deploy" / "src" / "bev_deploy" / "tensorrt"
SOURCES = ("pool_tables.cu", "pool_tables.cuh")
# The oldest architecture and PTX that the kernel needs: nvcc writes its own, newest PTX version, which drivers older
# than that nvcc refuse; ptxas checks that the kernel uses nothing newer than what is declared here.
ARCHITECTURE, PTX_VERSION = "80", "7.1"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER / "pool_tables.ptx", help="the file")
    options = parser.parse_args(argv)
    missing = [tool for tool in ("nvcc", "ptxas") if shutil.which(tool) is None]
    if missing:
        print(f"compile_pool_ptx: no {' and no '.join(missing)} on the PATH: install the CUDA toolkit", file=sys.stderr)
        return 1
    options.out.write_text(header() + compiled())
    print(f"wrote {options.out}")
    return 0


def header() -> str:
    """The first line of the file: what it was made from."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((FOLDER / "csrc" / name).read_bytes())
    return f"// Made by tools/compile_pool_ptx.py; sources {digest.hexdigest()}\n"


def compiled() -> str:
    """The PTX, checked."""
    with tempfile.TemporaryDirectory() as folder:
        path, binary = Path(folder) / "pool.ptx", Path(folder) / "pool.cubin"
        source = FOLDER / "csrc" / SOURCES[0]
        flags = ("-ptx", f"-arch=compute_{ARCHITECTURE}", "-std=c++17", "-O3")
        subprocess.run(["nvcc", *flags, "-o", str(path), str(source)], check=True)
        text, changed = re.subn(r"^\.version .*$", f".version {PTX_VERSION}", path.read_text(), flags=re.MULTILINE)
        assert changed == 1, "PTX has one version"
        path.write_text(text)
        subprocess.run(["ptxas", f"-arch=sm_{ARCHITECTURE}", "-o", str(binary), str(path)], check=True)
    return text


if __name__ == "__main__":
    sys.exit(main())
