"""What whole-human costs on a cluster, by simulation: hours, GPU hours and storage.

The graph is that of the rules, with as many partitions as the corpus has; a scheduler gives each
job to the first free processors. Seconds a cell of the rules before training, and bytes a value of
what they write, are those of a finished run of the demo, start-up included, so rather too many.
Training and embedding run at `--gpu-cells-per-s`, which `bench_pretrain --size published` measures
on a GPU; without it, at the FLOPs of the model over a third of what an H100 has in bfloat16.
"""

import argparse
import heapq
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from scgpt_core.config import Architecture, ModelConfig
from scgpt_core.model import ScGPT
from scgpt_core.runs import git_commit, read_json, write_json
from scgpt_core.train.flops import FlopsCounter

CELLS, PARTITION, GENES, EPOCHS, MAX_TOKENS = 33_000_000, 50_000, 2_000, 6, 1_200
"""The published corpus; cells of a partition as in config/census_blood.yaml; expressed genes of a
cell, assumed; epochs and tokens as published."""
VOCABULARY = 60_697
CORES_A_NODE, GPUS_A_NODE = 32, 8
DOWNLOADS = 8
"""At once, as `census.max_concurrent` says."""
SUBMISSION_S = 60
"""From a job's being ready to its start, and from its end to its being noticed."""
NODE_LOSS = 0.9
"""Speed of a GPU among several nodes, of what it has on one."""
INDEX_BYTES = 932e6 / 33e6
"""A cell, its code and id: `bench-index` measured 932 MB for 33 million cells."""
GPU_FLOPS = 989e12 / 3
LEG_S, MARGIN_S = 24 * 3600, 300 + 120 + 60
"""Time limit of a training job, and what is lost at its end: margin, requeue, start."""


@dataclass(frozen=True)
class Job:
    """A job of the graph: its rule and number, what it takes, and the jobs that it waits for."""

    name: str
    seconds: float
    after: tuple[str, ...] = ()
    uses: dict[str, int] = field(default_factory=lambda: {"cores": 1})
    """Of each resource, how much."""


class Done(NamedTuple):
    """When jobs ended, in seconds from the start."""

    end: dict[str, float]
    busy: dict[str, float]
    """Seconds in use, of each resource."""


def simulate(jobs: Sequence[Job], offered: dict[str, int]) -> Done:
    """Run a graph: every job starts when its inputs are there and what it uses is free.

    Raises
    ------
    ValueError
        Where a job uses more than there is.
    """
    for job in jobs:
        for resource, amount in job.uses.items():
            if amount > offered.get(resource, 0):
                message = f"{job.name} uses {amount} {resource}, the cluster has {offered}"
                raise ValueError(message)
    free, busy = dict(offered), dict.fromkeys(offered, 0.0)
    by_name = {job.name: job for job in jobs}
    missing = {job.name: len(job.after) for job in jobs}
    waited_for: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        for name in job.after:
            waited_for[name].append(job)
    ready = [job for job in jobs if not job.after]
    running: list[tuple[float, str]] = []
    end: dict[str, float] = {}
    now = 0.0
    while ready or running:
        waiting = []
        for job in ready:
            if all(free[resource] >= n for resource, n in job.uses.items()):
                for resource, n in job.uses.items():
                    free[resource] -= n
                    busy[resource] += n * job.seconds
                end[job.name] = now + job.seconds + SUBMISSION_S
                heapq.heappush(running, (end[job.name], job.name))
            else:
                waiting.append(job)
        now, name = heapq.heappop(running)
        for resource, n in by_name[name].uses.items():
            free[resource] += n
        for job in waited_for[name]:
            missing[job.name] -= 1
        ready = waiting + [job for job in waited_for[name] if not missing[job.name]]
    assert len(end) == len(jobs), "the graph has a circle, or names that no job has"
    return Done(end, busy)


class Measured(NamedTuple):
    """What a run of the demo took."""

    second_a_cell: dict[str, float]
    """By rule."""
    partition_bytes: float
    """A value that is not zero; so is the next."""
    shard_bytes: float


def read_demo(results: Path) -> Measured:
    """Read seconds from the benchmarks that Snakemake wrote, and sizes from what lies there."""
    if not (results / "shards/demo/manifest.json").exists():
        message = f"{results} has no finished demo: run `make demo` first"
        raise ValueError(message)
    manifest = read_json(results / "shards/demo/manifest.json")

    def seconds(pattern: str) -> float:
        paths = (results / "benchmarks").glob(pattern)
        tables = [pd.read_csv(path, sep="\t") for path in paths]
        return float(pd.concat(tables)["s"].sum()) / manifest["n_cells"]

    rules = {
        "query_census": "census/query_census_demo.tsv",
        "download_partition": "census/download_partition_demo_*.tsv",
        "build_vocab": "shards/build_vocab_demo.tsv",
        "build_shard": "shards/build_shard_demo_*.tsv",
        "seal_shards": "shards/seal_shards_demo.tsv",
        "build_index": "index/build_index_demo_demo.tsv",
    }

    def size(pattern: str) -> float:
        return sum(path.stat().st_size for path in results.glob(pattern)) / manifest["nnz"]

    return Measured(
        {rule: seconds(pattern) for rule, pattern in rules.items()},
        size("census/demo/partition_*.h5ad"),
        size("shards/demo/shard_*.arrow"),
    )


def count_flops() -> tuple[float, int]:
    """FLOPs of one forward and backward pass over a cell, and the number of weights."""
    config = ModelConfig(
        **Architecture().model_dump(), n_tokens=VOCABULARY, pad_id=VOCABULARY - 3,
        cls_id=VOCABULARY - 2,
    )  # fmt: skip
    with torch.device("meta"):
        counter = FlopsCounter(ScGPT(config))
    return counter(torch.tensor([min(GENES, MAX_TOKENS)])), counter.parameters


def build_graph(measured: Measured, *, train_s: float, embed_s: float, gpus: int) -> list[Job]:
    """Make the jobs of whole-human.

    Parameters
    ----------
    train_s, embed_s
        Seconds of one GPU a cell.
    """
    parts = range(-(-CELLS // PARTITION))
    second = measured.second_a_cell
    downloads = [f"download_partition.{i}" for i in parts]
    shards = [f"build_shard.{i}" for i in parts]
    embeddings = [f"embed_corpus.{i}" for i in parts]
    speed = gpus if gpus <= GPUS_A_NODE else gpus * NODE_LOSS
    training = CELLS * EPOCHS * train_s / speed
    training += MARGIN_S * (training // LEG_S)
    gpu = {"gpus": 1}
    return [
        Job("query_census", CELLS * second["query_census"]),
        *(
            Job(name, PARTITION * second["download_partition"], ("query_census",),
                {"cores": 1, "downloads": 1})
            for name in downloads
        ),
        Job("build_vocab", CELLS * second["build_vocab"], tuple(downloads)),
        *(
            Job(name, PARTITION * second["build_shard"], ("build_vocab",)) for name in shards
        ),
        Job("seal_shards", CELLS * second["seal_shards"], tuple(shards)),
        Job("pretrain", training, ("seal_shards",), {"gpus": gpus}),
        *(Job(name, PARTITION * embed_s, ("pretrain",), gpu) for name in embeddings),
        Job("build_index", CELLS * second["build_index"], tuple(embeddings), {"cores": 16}),
    ]  # fmt: skip


def storage(measured: Measured, parameters: int) -> dict[str, float]:
    """Terabytes of what stays on disk."""
    values, width = CELLS * GENES, Architecture().width
    return {
        "partitions": values * measured.partition_bytes / 1e12,
        "shards": values * measured.shard_bytes / 1e12,
        "checkpoints": 2 * 3 * 4 * parameters / 1e12,  # two, of weights and both moments
        "embeddings": CELLS * (4 * width + 8) / 1e12,  # float32, and the cell's id
        "index": CELLS * INDEX_BYTES / 1e12,
    }


def stages(done: Done) -> dict[str, float]:
    """Hours from the start to the last job of each rule."""
    ends: dict[str, float] = {}
    for name, end in done.end.items():
        rule = name.partition(".")[0]
        ends[rule] = max(ends.get(rule, 0), end / 3600)
    return ends


def main(results: Path, gpu_cells_per_s: float | None, gpus: Iterable[int], nodes: int) -> None:
    """Print the table and write results/bench/whole_human.json."""
    measured = read_demo(results)
    flops, parameters = count_flops()
    train_s = 1 / gpu_cells_per_s if gpu_cells_per_s else 2 * flops / GPU_FLOPS
    embed_s = train_s / 6  # a forward pass, of two forward and backward ones
    record = {
        "name": "whole_human",
        "cells": CELLS,
        "partitions": -(-CELLS // PARTITION),
        "gpu_cells_per_s": 1 / train_s,
        "gpu_rate": "measured" if gpu_cells_per_s else "a third of an H100's bfloat16 FLOPs",
        "ms_a_cell": {rule: 1000 * s for rule, s in measured.second_a_cell.items()},
        "storage_tb": storage(measured, parameters),
        "commit": git_commit(),
    }
    runs = {}
    for number in gpus:
        offered = {"cores": nodes * CORES_A_NODE, "gpus": number, "downloads": DOWNLOADS}
        jobs = build_graph(measured, train_s=train_s, embed_s=embed_s, gpus=number)
        done = simulate(jobs, offered)
        hours = {f"{rule}, done at hour": hour for rule, hour in stages(done).items()}
        busy = {"GPU hours": done.busy["gpus"] / 3600, "core hours": done.busy["cores"] / 3600}
        runs[f"{number} GPU"] = {**hours, **busy, "jobs": len(jobs)}
    write_json(Path("results/bench/whole_human.json"), {**record, "runs": runs})
    table = pd.DataFrame(runs).to_string(float_format=lambda value: f"{value:,.1f}")
    sys.stdout.write(f"{json.dumps(record, indent=1)}\n{nodes} CPU nodes\n{table}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="of a demo run")
    parser.add_argument("--gpu-cells-per-s", type=float, help="training, of one GPU")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--nodes", type=int, default=100, help="CPU nodes")
    main(**vars(parser.parse_args()))
