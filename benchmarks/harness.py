"""How every benchmark measures, prints and records.

Contenders run in turn in one process, so that a machine that is busy slows all of them alike, and
the medians of their rates are compared.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from scgpt_core.runs import git_commit, processor, write_json

RUNS = 5


def wall_time() -> float:
    """Seconds, when the GPU has done what it was given, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(
    contenders: Mapping[str, Callable[[], float]],
    *,
    runs: int = RUNS,
    clock: Callable[[], float] = wall_time,
) -> dict[str, list[float]]:
    """Rates of contenders, which run in turn after one run each to warm up.

    Parameters
    ----------
    contenders
        By name; each does its work and returns how many units of it were done.
    clock
        In seconds; `time.thread_time` leaves out what other programs take of a busy machine.

    Returns
    -------
    Units a second of every run, by name.
    """
    for run in contenders.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, run in contenders.items():
            start = clock()
            units = run()
            rates[name].append(units / (clock() - start))
    return rates


def report(
    name: str,
    *,
    unit: str,
    runs: Mapping[str, list[float]],
    ours: str = "ours",
    baseline: str = "baseline",
    less_is_better: bool = False,
    device: str | None = None,
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Print the medians as a table and write ``results/bench/NAME.json``.

    Parameters
    ----------
    runs
        Every figure of every contender, by name.
    ours, baseline
        The two contenders whose medians make the ratio (bigger is better).
    less_is_better
        Of the figures, as of memory: the ratio is then turned round.
    device
        What it ran on; None: this machine's processor.
    notes
        What else explains the figures.
    """
    medians = {contender: statistics.median(figures) for contender, figures in runs.items()}
    ratios = {
        contender: medians[baseline] / median if less_is_better else median / medians[baseline]
        for contender, median in medians.items()
    }
    record = {
        "name": name,
        "unit": unit,
        "ours": medians[ours],
        "baseline": medians[baseline],
        "ratio": ratios[ours],
        "runs": {contender: list(figures) for contender, figures in runs.items()},
        "device": device or f"{processor()}, {os.cpu_count()} cores",
        "commit": git_commit(),
        **(notes or {}),
    }
    write_json(Path("results/bench") / f"{name}.json", record)
    width = max(map(len, medians))
    lines = [f"{name}: {unit}, median of {len(runs[ours])} runs ({record['device']})"]
    for contender, median in medians.items():
        low, high = min(runs[contender]), max(runs[contender])
        lines.append(
            f"  {contender:{width}}  {median:12,.4g}  ({low:,.4g} to {high:,.4g})"
            f"  x{ratios[contender]:,.3g}"
        )
    lines += [f"  {key}: {value}" for key, value in (notes or {}).items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return record
