"""What every job shares: logging, whole-or-nothing files, digests, and the record of a run."""

import atexit
import hashlib
import json
import logging
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from scgpt_core.portable import is_pinned

if TYPE_CHECKING:  # jobs that write no tables need no pandas
    import pandas as pd

logger = logging.getLogger(__name__)
COMPRESSION: Final[Mapping[str, Any]] = {"compression": "gzip", "compression_opts": 1}
"""Of h5ad files. Not lzf, whose bytes depend on what was in memory before."""
RECORDED_PACKAGES: Final = (
    "scgpt-core", "torch", "numpy", "numba", "pyarrow", "anndata", "scanpy", "scib", "faiss-cpu",
    "cellxgene-census", "tiledbsoma", "scikit-learn", "harmonypy", "scanorama", "bbknn",
    "scvi-tools", "mofapy2", "celltypist",
)  # fmt: skip
"""Whose versions `environment` tells, where they are installed."""


def start_logging(log: str | Path | None = None) -> None:
    """Send log records to stderr and, where a path is given, to that file too.

    Stderr is for the person who watches `make demo`; the file is what Snakemake keeps. Its last
    line tells what the process took, and the error that ends the process, if one does, stands
    above it.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log is not None:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(log, mode="w")
        handlers.append(file)
        sys.excepthook = partial(_log_error, file, sys.excepthook)
        atexit.register(_log_cost, time.perf_counter())
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        handlers=handlers,
        force=True,
    )
    logging.captureWarnings(capture=True)
    for chatty in ("matplotlib", "numba", "fsspec", "papermill", "traitlets", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _log_error(
    file: logging.Handler,
    tell: Callable[[type[BaseException], BaseException, TracebackType | None], object],
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
) -> None:
    """Write an error that nobody caught to the log's file, then `tell` it as before: to stderr."""
    record = logger.makeRecord(
        logger.name, logging.CRITICAL, __file__, 0, "failed:", (), (kind, error, traceback)
    )
    file.handle(record)
    tell(kind, error, traceback)


def _log_cost(start: float) -> None:
    seconds = time.perf_counter() - start
    logger.info("took %.1f s and %.0f MB of memory at most", seconds, peak_memory_mb())


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it to `path` when the block ends well.

    A block that raises, or a process that is killed, leaves `path` as it was; what a killed one
    left beside it goes when `path` is next written. Works for files and for folders (a folder that
    was there is replaced).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    temporary = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        if temporary.is_file():
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            _remove(path)
        temporary.replace(path)
    finally:
        _remove(temporary)


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of `path`, but for those of other processes that still run here."""
    name = re.compile(rf"\.{re.escape(path.stem)}\.partial-(\d+){re.escape(path.suffix)}")
    for beside in path.parent.iterdir():
        found = name.fullmatch(beside.name)
        if found and (int(found[1]) == os.getpid() or not _runs(int(found[1]))):
            _remove(beside)


def _runs(pid: int) -> bool:
    """Whether a process runs on this machine; a job on another has its output for itself."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file, read in chunks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """Hex SHA-256 of a JSON-serialisable value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all, in a form that people can read and diff."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_parquet(path: str | Path, table: "pd.DataFrame") -> None:
    """Write a table without its index as parquet, whole or not at all."""
    with whole(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object; ValueError names the file when it is not one."""
    try:
        value = json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        message = f"{path} is not a whole JSON file ({error}): delete it and run again"
        raise ValueError(message) from error
    if not isinstance(value, dict):
        message = f"{path} holds a {type(value).__name__}, where a JSON object was expected"
        raise ValueError(message)
    return value


def environment() -> dict[str, Any]:
    """Versions, commit and machine: what a reader of a result needs to run it again."""
    versions: dict[str, str] = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "commit": git_commit(),
        "machine": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "portable_numerics": is_pinned(),
    }


def processor() -> str:
    """Name of the CPU, as its maker calls it; its architecture, where the system tells no more."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def git_commit() -> str:
    """Commit of the running code, "-dirty" where files differ; "unknown" without a clone."""
    folder = Path(__file__).parent
    git = [
        "git",
        "-C",
        str(folder),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def peak_memory_mb() -> float:
    """Greatest resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose getrusage counts what the parent had when it forked
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # macOS: bytes


EARLIER = "earlier_seconds"
"""Key of a run's record: training in runs that were interrupted; `seconds` includes it."""


@contextmanager
def run_record(path: str | Path, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Time a block and write `path` (run.json) when it ends well.

    Yields a dict: what the block puts into it is written too. `seconds` is of the block and of
    what it has put under `EARLIER`.
    """
    record: dict[str, Any] = {"settings": dict(settings)}
    start = time.perf_counter()
    yield record
    record["seconds"] = round(time.perf_counter() - start + record.get(EARLIER, 0.0), 3)
    record["peak_memory_mb"] = round(peak_memory_mb(), 1)
    record["environment"] = environment()
    write_json(path, record)
