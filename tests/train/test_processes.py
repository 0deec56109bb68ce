"""Real processes under torchrun: equal courses, shared checkpoints, signals and kills."""

import json
import multiprocessing
import multiprocessing.context
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from scgpt_core.train.journal import METRICS, read_metrics

TINY = Path(__file__).with_name("tiny.py")
STEPS = 50
PARALLEL = {name: {"trainer": {"parallel": name}} for name in ("ddp", "fsdp")}


def start(
    folder: Path,
    *,
    processes: int = 0,
    launch: tuple[str, ...] = ("--standalone",),
    runs: dict[str, dict[str, object]] | None = None,
    **options: object,
) -> subprocess.Popen[str]:
    """Start a run in `processes` processes of torchrun; 0: without torchrun.

    `runs`: several, by the names of their folders, because to start takes longest.
    """
    described = {name: {"steps": STEPS} | each for name, each in (runs or {"": options}).items()}
    command = [sys.executable, str(TINY), str(folder), json.dumps(described)]
    if processes:
        signals = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # as in the rule
        command[1:1] = [
            "-m", "torch.distributed.run", f"--nproc-per-node={processes}",
            f"--signals-to-handle={signals}", *launch,
        ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def run(folder: Path, **options: Any) -> None:
    process = start(folder, **options)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said


def losses(folder: Path) -> list[float]:
    (path,) = folder.glob(f"*/{METRICS}")
    return [line["loss"] for line in read_metrics(path)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_any_number_of_processes_gives_one_course(
    tmp_path: Path, alone: Path, processes: int
) -> None:
    """With dropout, over eight epochs and the cell-prompted second pass."""
    run(tmp_path, processes=processes, runs=PARALLEL)
    for parallel in PARALLEL:
        assert losses(tmp_path / parallel) == pytest.approx(losses(alone), rel=1e-4)


@pytest.mark.slow
def test_two_machines_shard_within_and_replicate_between(tmp_path: Path, alone: Path) -> None:
    """Two launchers of two processes each, as on two nodes of a cluster."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    launch = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={address}", "--rdzv-id=tiny")
    machines = [
        start(tmp_path, processes=2, launch=launch, trainer={"parallel": "fsdp"}) for _ in range(2)
    ]
    for machine in machines:
        _, said = machine.communicate(timeout=240)
        assert machine.returncode == 0, said
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-4)


@pytest.mark.slow
def test_a_checkpoint_of_four_processes_goes_on_in_one_two_and_four(
    tmp_path: Path, alone: Path
) -> None:
    short = {
        name: {"trainer": {"parallel": name, "time_budget_minutes": 1e-9}} for name in PARALLEL
    }
    for number, processes in enumerate([4, 1, 2]):
        process = start(tmp_path, processes=processes, runs=short)
        process.communicate(timeout=240)
        assert process.returncode != 0  # unfinished
        assert [len(losses(tmp_path / name)) for name in PARALLEL] == [number + 1] * 2
    run(tmp_path, processes=4, runs=PARALLEL)
    for parallel in PARALLEL:
        assert losses(tmp_path / parallel) == pytest.approx(losses(alone), rel=1e-4)


def last_told(folder: Path) -> float:
    """When the run last told a step."""
    return max((path.stat().st_mtime for path in folder.glob(f"*/{METRICS}")), default=0)


def wait_for_steps(folder: Path, n_steps: int) -> None:
    deadline = time.monotonic() + 240
    while not any(len(read_metrics(p)) >= n_steps for p in folder.glob(f"*/{METRICS}")):
        assert time.monotonic() < deadline, "the run does not start"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("processes", "number"),
    [
        (0, signal.SIGTERM),
        pytest.param(0, signal.SIGUSR1, marks=pytest.mark.slow),
        pytest.param(2, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(2, signal.SIGUSR1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_stops_unfinished(
    tmp_path: Path, processes: int, number: signal.Signals
) -> None:
    process = start(tmp_path, processes=processes, steps=2000, slow=True)
    try:
        wait_for_steps(tmp_path, 3)
        process.send_signal(number)
        _, said = process.communicate(timeout=240)
    finally:
        process.terminate()  # torchrun hands it on
        process.wait(timeout=60)
    assert process.returncode != 0
    assert number.name in said
    (checkpoint,) = tmp_path.glob("*/step_*")
    assert int(checkpoint.name.removeprefix("step_")) == len(losses(tmp_path))


@pytest.mark.slow
def test_kills_at_random_moments_change_no_bit(tmp_path: Path) -> None:
    """Ten times kill -9, each followed by the same; a checkpoint every 0.3 s."""
    trainer = {"checkpoint_minutes": 0.3 / 60, "micro_batch_cells": 16}
    options = {"steps": 200, "slow": True, "trainer": trainer}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny"])  # to import it takes longest

    def begin(name: str) -> multiprocessing.context.ForkServerProcess:
        process = context.Process(
            target=tiny.run, args=(tmp_path / name, tiny.ALONE), kwargs=options
        )
        process.start()
        return process

    begin("whole").join()
    rng = random.Random(0)
    for _ in range(10):
        told = last_told(tmp_path / "killed")
        process = begin("killed")
        while last_told(tmp_path / "killed") == told:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    begin("killed").join()
    expected, found = (
        torch.load(tmp_path / name / "weights.pt", weights_only=True)
        for name in ("whole", "killed")
    )
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        assert torch.equal(weight, found[name]), name
    whole, resumed = (losses(tmp_path / name) for name in ("whole", "killed"))
    assert whole == resumed
