"""What Slurm says of the time that a job has left, and of jobs that nobody waits for."""

import logging
from pathlib import Path

import pytest

from scgpt_core.slurm import cancel_left_jobs, parse_time_left, seconds_left


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("59", 59),
        ("1:00", 60),
        ("02:03:04", 7384),
        ("1-02:03:04", 93784),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("INVALID", None),
    ],
)
def test_time_left(said: str, seconds: int | None) -> None:
    assert parse_time_left(said) == seconds


def test_outside_of_a_job_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert seconds_left() is None


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A queue of Slurm: the lines that squeue prints, of which scancel takes those of its ids."""
    queue, programs = tmp_path / "queue", tmp_path / "bin"
    programs.mkdir()
    queue.write_text(
        f"7|scgpt_run|{tmp_path}\n8|scgpt_run|{tmp_path}\n9|scgpt_run|/elsewhere\n10|other|{tmp_path}\n"
    )
    lines = 'for id in "$@"; do sed -i "/^$id|/d"'
    for name, script in [("squeue", f"cat {queue}"), ("scancel", f"{lines} {queue}; done")]:
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    (tmp_path / ".snakemake/locks").mkdir(parents=True)
    (tmp_path / ".snakemake/locks/0.output.lock").touch()
    return queue


def left(queue: Path) -> list[str]:
    return [line.split("|")[0] for line in queue.read_text().splitlines()]


def test_jobs_that_were_left_in_the_directory_are_cancelled(jobs: Path) -> None:
    cancel_left_jobs(jobs.parent)
    assert left(jobs) == ["9", "10"]


def test_the_job_that_snakemake_itself_runs_in_is_not_cancelled(
    jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    cancel_left_jobs(jobs.parent)
    assert left(jobs) == ["8", "9", "10"]


def test_jobs_of_a_snakemake_that_runs_beside_are_left_alone(
    jobs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (jobs.parent / ".snakemake/locks/1.output.lock").touch()
    with caplog.at_level(logging.WARNING):
        cancel_left_jobs(jobs.parent)
    assert left(jobs) == ["7", "8", "9", "10"]
    assert "7 8 are left alone" in caplog.text
