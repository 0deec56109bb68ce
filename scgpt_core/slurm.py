"""What a run asks of Slurm: when its job ends, to run it again, and which jobs were left behind.

Where there is no Slurm, nothing here does anything.
"""

import logging
import os
import shutil
import subprocess
import time
from pathlib import Path

_JOBS = "scgpt_"
"""What the names of our jobs start with, as profiles/slurm says."""
_LOCKS = ".snakemake/locks/*.output.lock"
"""One of each Snakemake that runs in a directory, our own among them."""
_GRACE_SECONDS = 120

logger = logging.getLogger(__name__)


def seconds_left() -> float | None:
    """Seconds until Slurm ends this job; None outside of a job, or where it has no time limit."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    said = _ask("squeue", "--noheader", f"--jobs={job}", "--format=%L")
    return None if said is None else parse_time_left(said)


def parse_time_left(said: str) -> float | None:
    """Seconds of what Slurm writes as [[days-]hours:]minutes:seconds; None of a word."""
    days, _, clock = said.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in [*parts, days or "0"]):
        return None
    hours, minutes, seconds = ["0", "0", *parts][-3:]
    return 86400 * int(days or 0) + 3600 * int(hours) + 60 * int(minutes) + int(seconds)


def requeue() -> None:
    """Have Slurm run this job again, under its own number; this run of it is ended at once.

    To Snakemake the job waits or runs all the time: it counts no failure and no attempt. It works
    also for a job that Slurm was told not to requeue of its own accord. A job that Snakemake did
    not submit, as an allocation in which Snakemake itself runs, is left as it is.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    name = _ask("squeue", "--noheader", f"--jobs={job}", "--format=%j")
    if name is None or not name.startswith(_JOBS):
        logger.info("job %s (%s) is not one of the pipeline's: run again, it goes on", job, name)
        return
    logger.info("asking Slurm to run job %s again: it goes on from its checkpoint", job)
    if _ask("scontrol", "update", f"JobId={job}", "Requeue=1") is not None:
        _ask("scontrol", "requeue", job)


def cancel_left_jobs(folder: Path) -> None:
    """Cancel the jobs of a Snakemake that was killed in this working directory, and wait for it.

    They would go on beside the ones that are submitted for the same work. A Snakemake that has
    other outputs may run in the directory at the same time (its locks are of files): then nothing
    is cancelled, for jobs do not tell whose they are.
    """
    if shutil.which("squeue") is None:
        return
    if len(list(folder.glob(_LOCKS))) != 1:
        if jobs := _find_jobs(folder):
            logger.warning(
                "another Snakemake runs in %s, or was killed: Slurm jobs %s are left alone. Where "
                "it was killed, cancel them with scancel, and run snakemake --unlock",
                folder, " ".join(jobs),
            )  # fmt: skip
        return
    deadline = time.monotonic() + _GRACE_SECONDS
    while jobs := _find_jobs(folder):
        if time.monotonic() > deadline:
            message = f"Slurm jobs {jobs} of {folder} do not end: look at them with squeue"
            raise RuntimeError(message)
        logger.warning("cancelling Slurm jobs that an earlier run left: %s", " ".join(jobs))
        _ask("scancel", *jobs)
        time.sleep(2)


def _find_jobs(folder: Path) -> list[str]:
    """Give the ids of our jobs in this directory, but for the one that this process is in."""
    said = _ask("squeue", "--noheader", "--me", "--format=%i|%j|%Z") or ""
    jobs = [line.split("|", 2) for line in said.splitlines()]
    own = os.environ.get("SLURM_JOB_ID")
    return [
        i for i, name, where in jobs
        if name.startswith(_JOBS) and Path(where) == folder and i != own
    ]  # fmt: skip


def _ask(*command: str) -> str | None:
    """Give what a command of Slurm says; None, with a warning, where it fails or is missing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        logger.warning("%s: %s", " ".join(command), str(said).strip())
        return None
    return done.stdout.strip()
