"""The smoke graph on a real Slurm, of two virtual nodes, gives what it gives on this machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "tests/slurm/start_slurm.sh"

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(3600),
    pytest.mark.skipif("SCGPT_TEST_SLURM" not in os.environ, reason="run by `make test-slurm`"),
]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Slurm, up before the first test and stopped after the last."""
    subprocess.run([CLUSTER, "start"], check=True)
    yield
    subprocess.run([CLUSTER, "stop"], check=True)


def snakemake(folder: Path, *arguments: str) -> None:
    """Run the smoke graph into `folder`, from the root of the repository as a user would."""
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder)]
    command += ["--configfile", "tests/smoke/config.yaml", *arguments]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "SCGPT_SLURM_POLL": "5"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]


def read_scores(folder: Path) -> pd.DataFrame:
    scores = pd.read_parquet(folder / "results/benchmark/scores.parquet")
    return scores.drop(columns="seconds").sort_values(["dataset", "method", "seed", "metric"])


def test_the_graph_on_slurm_gives_the_scores_of_a_local_run(tmp_path: Path) -> None:
    remote, local = tmp_path / "slurm", tmp_path / "local"
    snakemake(remote, "--profile", "slurm", "--max-threads", "2")
    snakemake(local, "--cores", "2")
    pd.testing.assert_frame_equal(
        read_scores(remote).reset_index(drop=True),
        read_scores(local).reset_index(drop=True),
        atol=1e-6,
    )
    states = subprocess.run(
        ["sacct", "-X", "-n", "-P", "-o", "State"], capture_output=True, text=True, check=True
    ).stdout.split()
    logs = list((remote / "results/logs/slurm").rglob("*.log"))
    assert set(states) == {"COMPLETED"}
    assert len(logs) == len(states) > 10
