"""What the tests ask of Slurm and of a Snakemake that runs on it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

ROOT = Path(__file__).parents[2]
TRAINING = ROOT / "tests/slurm/training.yaml"
MODEL = "results/models/smoke/model.safetensors"
LOG = "results/logs/pretrain/pretrain_smoke.log"
PATIENCE = 900
"""Seconds that a busy machine may take for anything."""
OVER = threading.Event()
"""Set when the tests end, so that nothing goes on waiting, or starts, for them."""


class Job(NamedTuple):
    """One run of a Slurm job: a job that was requeued has several."""

    number: str
    state: str
    start: str
    end: str


def ask(*command: str) -> str:
    """Give what a command of Slurm says."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited too long until {what}"
        assert not OVER.is_set(), f"the tests were ended before {what}"
        time.sleep(0.5)  # a question to Slurm takes a processor from what is waited for


class Run:
    """A Snakemake that works in a folder, and starts in the root of the repository.

    The repository may go by another path, `root`.
    """

    started: ClassVar[list["Run"]] = []

    def __init__(
        self, folder: Path, *targets: str, config: tuple[str, ...] = (), root: Path = ROOT
    ) -> None:
        self.folder, self.said = folder, folder / "said.txt"
        self.step = 0  # of the last checkpoint when something happened to the run
        self.command = [sys.executable, "-m", "snakemake", *targets, "--directory", str(folder)]
        self.command += ["--snakefile", str(root / "Snakefile"), "--max-threads", "1"]
        self.command += ["--configfile", str(root / "tests/smoke/config.yaml"), *config]
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, *arguments: str, profile: str = "slurm", **environment: str) -> None:
        """Start on Slurm, or with `profile` "" on this machine."""
        where = ["--profile", profile] if profile else ["--cores", "2"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | environment
        # Then 22, 32, ... seconds more: jobs take 6 to 12, 30 (to pretrain) and 60 (the report).
        self.environment.setdefault("SCGPT_SLURM_POLL", "12")
        with self.said.open("a") as said:
            self.process = subprocess.Popen(
                [*self.command, *where, *arguments],
                cwd=ROOT,
                env=self.environment,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self.started.append(self)

    def finish(self, *, well: bool = True) -> str:
        """Wait for the end; returns all that was said."""
        try:
            code = self.process.wait(timeout=2 * PATIENCE)
        except subprocess.TimeoutExpired:
            code = None
        said = self.said.read_text()
        assert code is not None, f"not ended; its jobs so far: {self.jobs()}\n{said[-8000:]}"
        assert (code == 0) == well, said[-8000:]
        return said

    def stop(self) -> None:
        """End it, whatever has happened."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def unlock(self) -> None:
        """Do what Snakemake tells to do after a kill."""
        subprocess.run(
            [*self.command, "--cores", "1", "--unlock"],
            cwd=ROOT, env=self.environment, check=True, capture_output=True,
        )  # fmt: skip

    def jobs(self) -> list[Job]:
        """Every run of every Slurm job, by its start."""
        fields = "JobIDRaw,State,Start,End,WorkDir"
        said = ask("sacct", "-D", "-X", "-n", "-P", "-S", "now-2hours", "-o", fields)
        rows = [line.split("|") for line in said.splitlines()]
        ours = [
            Job(number, state.split()[0], start, end)
            for number, state, start, end, folder in rows
            if folder == str(self.folder)
        ]
        return sorted(ours, key=lambda job: (job.start, job.end))

    def running(self) -> str:
        """The number of the job that runs."""
        wait_until(lambda: any(job.state == "RUNNING" for job in self.jobs()), "a job runs")
        return next(job.number for job in self.jobs() if job.state == "RUNNING")

    def saved(self) -> int:
        """Wait for a checkpoint; returns its step."""

        def steps() -> list[int]:
            paths = self.folder.glob("results/state/smoke/*/step_*")
            return [int(path.name.removeprefix("step_")) for path in paths]

        wait_until(lambda: bool(steps()), f"{self.folder} has a checkpoint")
        return max(steps(), default=1)

    def resumed(self) -> int:
        """The step after which the last run of the trainer went on; 0: it began anew."""
        log = self.folder / LOG  # which Snakemake deletes before it runs the rule again
        found = (
            re.search(r"going on after step (\d+) of", log.read_text()) if log.exists() else None
        )
        return int(found[1]) if found else 0


def processes_of(job: str) -> list[int]:
    """What runs on this machine for a Slurm job."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if f"SLURM_JOB_ID={job}".encode() in variables:
            found.append(int(path.parent.name))
    return found


def send(number: signal.Signals, job: str) -> None:
    """Send a signal to all processes of a job, as none of Slurm's would."""
    for process in processes_of(job):
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue
