"""What a cluster is asked to run: every job once, in few submissions."""

import json
import os
from pathlib import Path

import pytest
from graph import assert_ran, snakemake

PLUGINS = Path(__file__).parent  # snakemake_executor_plugin_replay


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reference", "combine"),
    [("[smoke, bremsc]", "update"), ("[bremsc, smoke]", "update"), ("[bremsc, smoke]", "merge")],
)
def test_every_job_is_submitted_once(
    smoke_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reference: str,
    combine: str,
) -> None:
    monkeypatch.setenv("REPLAYED_RUN", str(smoke_run))
    paths = filter(None, [str(PLUGINS), os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    profile = ("--profile", "slurm", "--executor", "replay", "--latency-wait", "1")
    index = f"index={{reference: {reference}, combine: {combine}}}"
    done = snakemake(tmp_path / "run", *profile, "--config", index)
    assert_ran(done)
    lines = [line.partition("SUBMITTED ") for line in done.stderr.splitlines()]
    submissions = [json.loads(said) for _, found, said in lines if found]
    jobs = [job for submission in submissions for job in submission]
    assert len(jobs) == len(set(jobs)) >= 60
    assert len(submissions) <= 15
