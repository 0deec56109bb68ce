"""The graph on a real Slurm of virtual nodes: the results of a local run, whatever breaks.

The runs wait most of their time, so several go on at once, each in a folder of its own.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cluster import MODEL, OVER, ROOT, TRAINING, Job, Run, ask, send, wait_until

START = ROOT / "tests/slurm/start_slurm.sh"
TIMED = {
    "seconds", "cells_per_s", "tokens_per_s", "gflops_per_s_and_process", "flops_use",
    "peak_memory_mb", "milliseconds_per_query",
}  # fmt: skip
"""What no two runs have in common, in records, learning curves and tables."""
WHOLE = "whole graph"
LABELS = "results/tasks/annotation/pbmc_smoke/scgpt_annotation/0/predictions.parquet"

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        "SCGPT_TEST_SLURM" not in os.environ, reason="run by `make test-slurm` and .ci/run"
    ),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("apt-get") is None,
        reason="Slurm is installed by apt-get, as root",
    ),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Slurm, up before the first test; stopped after the last, and after what goes wrong."""
    try:
        subprocess.run([START, "start"], check=True)
        yield
    finally:
        subprocess.run([START, "wipe"], check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of runs, on a path with a space."""
    return tmp_path_factory.mktemp("shared folder").resolve()


def training(folder: Path, name: str, *targets: str) -> Run:
    """A run that has little to do but to train, on the shards that `whole_graph` makes."""
    made = folder / WHOLE / "results"
    wait_until(lambda: (made / "shards/smoke/manifest.json").exists(), "there are shards")
    for part in ("census", "shards"):
        shutil.copytree(made / part, folder / name / "results" / part)
    return Run(folder / name, MODEL, *targets, config=(str(TRAINING),))


# ------------------------------------------------------------------- what happens to a run


def nothing(folder: Path) -> Run:
    """The same on this machine: what all others are compared with."""
    run = training(folder, "untroubled")
    run.start(profile="")
    run.finish()
    return run


def whole_graph(folder: Path) -> Run:
    """All of it, of a repository whose path has a space too."""
    repository = folder / "the repository"
    repository.symlink_to(ROOT)
    run = Run(folder / WHOLE, root=repository)
    run.start()
    run.finish()
    return run


def lost_node(folder: Path) -> Run:
    """The power of a node fails: its processes are gone, and some time later Slurm notes it."""
    run = training(folder, "lost node")
    run.start(SCGPT_SLURM_PARTITION="frail")
    job = run.running()
    run.step = run.saved()
    node = ask("squeue", "--noheader", "--jobs", job, "--format", "%N")
    ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    send(signal.SIGKILL, job)
    run.finish()
    return run


def interrupt_and_memory(folder: Path) -> Run:
    """Ctrl-C; and when it is run again, the first attempt has too little memory."""
    run = training(folder, "memory limit")
    run.start()
    run.running()
    run.step = run.saved()
    run.process.send_signal(signal.SIGINT)
    run.finish(well=False)
    run.start("--set-resources", "pretrain:mem_mb=250+6000*(attempt-1)")
    run.finish()
    return run


def killed_controller_and_time_limit(folder: Path) -> Run:
    """The controller is killed, its job runs on, and Snakemake is started again; then the trainer
    hangs until its job's time is over.
    """
    run = training(folder, "killed controller")
    run.start()
    job = run.running()
    run.step = run.saved()
    run.process.kill()
    run.process.wait()
    send(signal.SIGSTOP, job)  # lest it ends before the other Snakemake has come up
    run.unlock()
    run.start("--rerun-incomplete")
    wait_until(lambda: run.resumed() >= run.step, "training goes on")
    job = run.running()
    send(signal.SIGSTOP, job)
    ask("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    run.finish()
    return run


def short_limit(folder: Path) -> Run:
    """Two runs of a job have hardly more time than the margin; then it is given more."""
    run = training(folder, "short limit")
    run.start("--set-resources", "pretrain:runtime=2")
    job = run.running()
    run.step = run.saved()
    wait_until(lambda: "Restarts=2" in ask("scontrol", "show", "job", job), "it started again")
    ask("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    run.finish()
    return run


def several_processes(folder: Path, name: str, nodes: int) -> Run:
    """Pretraining in four processes, then fine-tuning in two; one node is this machine."""
    run = training(folder, name, LABELS)
    four, two = (f"trainer: {{nodes: {nodes}, processes: {n // nodes}}}" for n in (4, 2))
    pretrain = f"pretrain={{steps: 40, evaluate_steps: 40, {four}}}"
    profile = "slurm" if nodes > 1 else ""
    run.start("--config", pretrain, f"annotation={{{two}}}", profile=profile)
    run.finish()
    return run


def one_node(folder: Path) -> Run:
    return several_processes(folder, "one node", 1)


def two_nodes(folder: Path) -> Run:
    return several_processes(folder, "two nodes", 2)


def many_gpus(folder: Path) -> Run:
    """Four nodes of eight GPUs are more than this cluster has: the job waits for them."""
    run = training(folder, "many GPUs")
    config = "pretrain={trainer: {device: cuda, nodes: 4, processes: 8}}"
    run.start("--config", config, "--verbose")
    wait_until(lambda: "has been submitted" in run.said.read_text(), "the job is submitted")
    run.stop()
    return run


RUNS: list[Callable[[Path], Run]] = [
    whole_graph, killed_controller_and_time_limit, short_limit, lost_node, interrupt_and_memory,
    nothing, two_nodes, one_node, many_gpus,
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(cluster: None, folder: Path) -> Iterator[dict[str, Future[Run]]]:
    """All of them, three at once, by name: more would only keep the longest, the first, waiting."""
    # What a shell starts in the background ignores Ctrl-C, and so would all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with ThreadPoolExecutor(3) as pool:
        runs = {run.__name__: pool.submit(run, folder) for run in RUNS}
        try:
            yield runs
        finally:  # also where a test or the person at the keyboard has ended them early
            OVER.set()
            for future in runs.values():
                future.cancel()
            for run in Run.started:
                run.stop()


# ------------------------------------------------------------------------ what must hold


def read_untimed(path: Path) -> Any:
    """Give what a file says, without times and the machine's state."""
    if path.suffix == ".json":
        return drop_timed(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [drop_timed(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".parquet" and {"benchmark", "generation"} & set(path.parts):
        return pd.read_parquet(path).drop(columns="seconds", errors="ignore").to_csv()
    return path.read_bytes()


def drop_timed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: drop_timed(v) for key, v in value.items() if key not in TIMED}
    return [drop_timed(v) for v in value] if isinstance(value, list) else value


def states(run: Run) -> list[str]:
    return [job.state for job in run.jobs()]


def assert_one_at_a_time(jobs: list[Job]) -> None:
    """No run of the job began before the one before it had ended."""
    assert all(before.end <= after.start for before, after in itertools.pairwise(jobs))


def assert_resumed(run: Run, untroubled: Run) -> None:
    """Training went on from a checkpoint, once and only once, to the same end."""
    assert run.resumed() >= run.step > 0
    assert_one_at_a_time(run.jobs())
    for name in (MODEL, MODEL.replace("model.safetensors", "metrics.jsonl")):
        assert read_untimed(run.folder / name) == read_untimed(untroubled.folder / name)


def test_the_graph_gives_the_results_of_a_local_run(
    runs: dict[str, Future[Run]], request: pytest.FixtureRequest
) -> None:
    local = request.getfixturevalue("smoke_results")  # while those on Slurm go on
    run = runs["whole_graph"].result()
    names = list_results(local)
    assert names == list_results(run.folder)
    different = [
        name for name in names if read_untimed(run.folder / name) != read_untimed(local / name)
    ]
    assert different == []


def list_results(folder: Path) -> list[str]:
    """Files of a run but those that tell how it went, the report and what is written from the
    records, which have times in them, and the local Census, whose files are named after the moment.
    """
    paths = (folder / "results").rglob("*")
    names = sorted(str(path.relative_to(folder)) for path in paths if path.is_file())
    apart = re.compile(
        "results/(logs|benchmarks|state|report|census/[^/]*_soma)/|.*/README.md|.*/scores.tsv"
    )
    return [name for name in names if not apart.match(name)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lost_node", ["NODE_FAIL", "COMPLETED"]),
        ("interrupt_and_memory", ["CANCELLED", "FAILED", "COMPLETED"]),
        ("killed_controller_and_time_limit", ["CANCELLED", "TIMEOUT", "COMPLETED"]),
        ("short_limit", ["REQUEUED", "REQUEUED", "COMPLETED"]),
    ],
)
def test_training_goes_on_after(
    runs: dict[str, Future[Run]], name: str, expected: list[str]
) -> None:
    run = runs[name].result()
    assert states(run) == expected
    assert_resumed(run, runs["nothing"].result())


def test_a_job_that_is_short_of_time_is_submitted_once_and_never_fails(
    runs: dict[str, Future[Run]],
) -> None:
    run = runs["short_limit"].result()
    said = run.said.read_text()
    assert len({job.number for job in run.jobs()}) == 1
    assert said.count("has been submitted with SLURM jobid") == 1
    assert "Error in rule" not in said


def test_a_job_of_the_users_own_is_not_submitted_again(cluster: None, folder: Path) -> None:
    """As an allocation in which Snakemake runs: its trainer comes near the end of its time."""
    own = Run(folder / "own job")
    code = "from scgpt_core import slurm; slurm.requeue(); print(1)"
    asks = shlex.join([sys.executable, "-c", code])
    where = (f"--chdir={own.folder}", f"--output={own.folder}/said.txt")
    ask(
        "sbatch",
        "--wait",
        "--job-name=mine",
        *where,
        "--wrap",
        f"cd {shlex.quote(str(ROOT))} && {asks}",
    )
    wait_until(lambda: {"COMPLETED"} <= {*states(own)}, "accounting knows how it ended")
    assert states(own) == ["COMPLETED"]
    assert own.said.read_text() == "1\n"


def test_the_graph_makes_few_submissions(runs: dict[str, Future[Run]]) -> None:
    run = runs["whole_graph"].result()
    assert set(states(run)) == {"COMPLETED"}
    assert len(run.jobs()) <= 15
    logs = {path.stem for path in (run.folder / "results/logs/slurm").rglob("*.log")}
    assert logs == {job.number for job in run.jobs()}


def test_two_nodes_train_what_one_trains(runs: dict[str, Future[Run]]) -> None:
    one, two = (runs[name].result() for name in ("one_node", "two_nodes"))
    for file in (MODEL, MODEL.replace("model.safetensors", "metrics.jsonl"), LABELS):
        assert read_untimed(one.folder / file) == read_untimed(two.folder / file)
    numbers = ",".join(job.number for job in two.jobs())
    nodes = ask("sacct", "-X", "-n", "-P", "-j", numbers, "-o", "Comment,NodeList").splitlines()
    together = sorted(line.split("|")[0] for line in nodes if line.endswith("|n[1-2]"))
    assert len(together) == 2
    assert together[0].startswith("rule_annotate")
    assert together[1].startswith("rule_pretrain")


def test_nodes_of_gpus_are_asked_for_in_slurms_words(runs: dict[str, Future[Run]]) -> None:
    said = runs["many_gpus"].result().said.read_text()
    call = said[said.index("sbatch --parsable") :].split("--wrap", 1)[0]
    for option in ("--nodes=4", "--ntasks=4", "--gres=gpu:8", "--cpus-per-task=1", "-t 1440"):
        assert f" {option} " in call
    assert "--gpus" not in call
    assert "--ntasks-per-gpu" not in call
