"""What a cluster is asked to run: every job once, in few submissions."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from graph import ROOT, assert_ran, snakemake

PLUGINS = Path(__file__).parent  # snakemake_executor_plugin_replay


def replay(
    smoke_run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> list[list[str]]:
    """First outputs of the jobs of each submission, in order."""
    monkeypatch.setenv("REPLAYED_RUN", str(smoke_run))
    paths = filter(None, [str(PLUGINS), os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    profile = ("--profile", str(ROOT / "slurm"), "--executor", "replay", "--latency-wait", "1")
    done = snakemake(folder, *profile, *arguments)
    assert_ran(done)
    lines = [line.partition("SUBMITTED ") for line in done.stderr.splitlines()]
    return [json.loads(said) for _, found, said in lines if found]


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
    index = f"index={{reference: {reference}, combine: {combine}}}"
    submissions = replay(smoke_run, tmp_path / "run", monkeypatch, "--config", index)
    jobs = [job for submission in submissions for job in submission]
    assert len(jobs) == len(set(jobs)) >= 60
    assert len(submissions) <= 15


@pytest.mark.slow
def test_what_a_query_planned_goes_job_by_job_where_it_ended_before(
    smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for corpus in ("smoke_census_soma", "smoke"):
        source, target = (folder / "results/census" / corpus for folder in (smoke_run, tmp_path))
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("partition_*"))
    submissions = replay(smoke_run, tmp_path, monkeypatch)
    jobs = [job for submission in submissions for job in submission]
    assert len(jobs) == len(set(jobs))
    planned = [group for group in submissions if re.search("shard_|partition_", group[0])]
    assert len(planned) > 3
    assert all(len(group) == 1 for group in planned)
