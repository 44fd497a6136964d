"""Compiles the C++ and CUDA kernels into one shared library per device.

Needs neither torch nor bev_ops to be imported, so that the build hook and the compile check can use it as a file. The
kernels use PyTorch's stable C++ ABI only: a library built here loads into every PyTorch from 2.11 on.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

DEVICES = ("cpu", "cuda")
SOURCE_ROOT = Path(__file__).resolve().parent / "csrc"

# Oldest PyTorch the libraries load into, as torch/csrc/stable/version.h encodes it: 2.11.
_TARGET_VERSION = "-DTORCH_TARGET_VERSION=0x020b000000000000"
# Without contraction compiled sums round like the reference; the GPU pooling kernels ask for fused operations by name.
_CXX_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", _TARGET_VERSION)
_NVCC_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fmad=false",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    "-DUSE_CUDA",
    _TARGET_VERSION,
)
_SUFFIXES = {"cpu": ".cpp", "cuda": ".cu"}
_DEFAULT_CUDA_ARCHS = ("8.0", "9.0+PTX")


class BuildError(RuntimeError):
    """The kernels could not be compiled; the message says why, with the compiler's own words if there are any."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a library contains."""

    device: str
    sources: tuple[Path, ...]
    compiler: str
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]

    @property
    def library_name(self) -> str:
        return f"bev_ops_{self.device}.so"


def make_recipe(device: str, *, native: bool = False, cuda_archs: Sequence[str] = ()) -> Recipe:
    """Finds the tools and flags to compile the kernels of a device.

    Args:
        device: "cpu" or "cuda".
        native: use every instruction of this machine's CPU; such a library may not run on another.
        cuda_archs: compute capabilities such as "8.0" or "9.0+PTX"; TORCH_CUDA_ARCH_LIST has precedence.

    Raises:
        BuildError: if a tool is missing.
    """
    if device not in DEVICES:
        raise BuildError(f"kernels exist for {' and '.join(DEVICES)}, not for {device!r}")
    torch_root = _torch_root()
    sources = tuple(sorted((SOURCE_ROOT / device).glob(f"*{_SUFFIXES[device]}")))
    includes = ("-isystem", str(torch_root / "include"))
    library_folder = f"-L{torch_root / 'lib'}"
    cxx = find_cxx()
    if device == "cpu":
        flags = (*_CXX_FLAGS, *(("-march=native",) if native else ()), *includes)
        link = ("-shared", "-Wl,--no-undefined,--as-needed", library_folder, "-ltorch_cpu", "-lc10")
        return Recipe(device, sources, cxx, flags, link)
    flags = (*_NVCC_FLAGS, f"-ccbin={cxx}", *gencode_flags(cuda_archs), *includes)
    libraries = ("-ltorch_cuda", "-ltorch_cpu", "-lc10_cuda", "-lc10")
    link = ("-shared", "-cudart=shared", f"-ccbin={cxx}", "-Xlinker=--no-undefined,--as-needed", library_folder)
    return Recipe(device, sources, find_nvcc(), flags, (*link, *libraries))


@dataclass(frozen=True)
class Compiled:
    """A compiled library, and what the compilers printed."""

    path: Path
    output: str


def compile_library(recipe: Recipe, directory: Path) -> Compiled:
    """Compiles a library into an existing directory.

    Raises:
        BuildError: with the compiler's message.
    """
    (directory / "build.ninja").write_text(_ninja_text(recipe))
    jobs = ("-j", os.environ["MAX_JOBS"]) if os.environ.get("MAX_JOBS") else ()
    command = [_find_ninja(), "-C", str(directory), *jobs]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode:
        raise BuildError(f"{recipe.compiler} failed:\n{result.stdout.strip()[-4000:]}")
    return Compiled(directory / recipe.library_name, result.stdout)


def cached_library(recipe: Recipe) -> Path:
    """Where the compiled library of a recipe stands, or will stand, in the cache."""
    return cache_root() / f"{recipe.device}-{fingerprint(recipe)}" / recipe.library_name


def compile_into_cache(recipe: Recipe) -> Path:
    """Compiles a library into the cache unless it is there; several processes may ask at once."""
    path = cached_library(recipe)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            if not path.exists():
                compile_library(recipe, Path(scratch)).path.replace(path)
    except OSError as error:
        raise BuildError(f"the cache {path.parent} cannot be used ({error}): set BEV_OPS_CACHE") from error
    return path


def cache_root() -> Path:
    """BEV_OPS_CACHE, or bev-ops in the user's cache folder."""
    if os.environ.get("BEV_OPS_CACHE"):
        return Path(os.environ["BEV_OPS_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "bev-ops"


def fingerprint(recipe: Recipe) -> str:
    """Changes with sources, flags, compilers, instruction set and PyTorch."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE_ROOT.rglob("*.*")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    facts = (recipe.compile_flags, recipe.link_flags, importlib.metadata.version("torch"), platform.machine())
    digest.update(repr(facts).encode())
    digest.update(_output_of([recipe.compiler, "--version"]))
    if "-march=native" in recipe.compile_flags:
        digest.update(_output_of([recipe.compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull]))
    return digest.hexdigest()[:16]


def find_cxx() -> str:
    """The C++ compiler: CXX, or the first of c++, g++ and clang++."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise BuildError("no C++ compiler found: install g++ or clang++, or set CXX")


def find_nvcc() -> str:
    """The CUDA compiler: of CUDA_HOME or CUDA_PATH, on the PATH, or in /usr/local/cuda."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [str(Path(home) / "bin" / "nvcc") for home in homes if home]
    for name in (*candidates, "nvcc", "/usr/local/cuda/bin/nvcc"):
        found = shutil.which(name)
        if found:
            return found
    raise BuildError("no nvcc found: install the CUDA toolkit, or set CUDA_HOME")


def gencode_flags(archs: Sequence[str]) -> tuple[str, ...]:
    """nvcc flags for compute capabilities: machine code for "8.0", also PTX for "8.0+PTX"."""
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split() or list(archs) or _DEFAULT_CUDA_ARCHS
    flags = []
    for arch in listed:
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return tuple(flags)


def _torch_root() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildError("torch is not installed here: build with --no-build-isolation in an environment that has it")
    return Path(spec.origin).parent


def _find_ninja() -> str:
    if importlib.util.find_spec("ninja") is not None:
        import ninja

        return str(Path(ninja.BIN_DIR) / "ninja")
    found = shutil.which("ninja")
    if found is None:
        raise BuildError("no ninja found: pip install ninja")
    return found


def _ninja_text(recipe: Recipe) -> str:
    objects = [f"{source.stem}.o" for source in recipe.sources]
    lines = [
        "rule compile",
        f"  command = {_shell(recipe.compiler, *recipe.compile_flags)} -c $in -o $out",
        "rule link",
        f"  command = {_shell(recipe.compiler)} $in -o $out {_shell(*recipe.link_flags)}",
    ]
    for source, target in zip(recipe.sources, objects, strict=True):
        lines.append(f"build {target}: compile {_ninja_path(source)}")
    lines.append(f"build {recipe.library_name}: link {' '.join(objects)}")
    return "\n".join(lines) + "\n"


def _shell(*words: str) -> str:
    quoted = (f"'{word}'" if any(c in word for c in " ()&;") else word for word in words)
    return " ".join(quoted).replace("$", "$$")


def _ninja_path(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def _output_of(command: list[str]) -> bytes:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False).stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # no file locks on this platform: the rename alone keeps the cache whole
        yield
        return
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
