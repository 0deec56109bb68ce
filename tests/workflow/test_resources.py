"""What rules ask for is what they were measured to take."""

import re
from pathlib import Path

import pandas as pd
import pytest

SNAKEMAKE_MB = 250
"""What Snakemake itself takes in a job of a cluster: 105 to 215 MB were measured."""
_JOB = re.compile(
    r"^(?:local)?(?:rule|checkpoint) (\w+):$.*?"
    r"^    benchmark: (\S+)$.*?"
    r"^    resources: .*?runtime=(\d+).*? mem_mb=(\d+)",
    re.MULTILINE | re.DOTALL,
)


def read_requests(said: str) -> pd.DataFrame:
    """Rule, minutes and MB that each job asked for, by the path of its benchmark."""
    rows = [(path, rule, int(runtime), int(mb)) for rule, path, runtime, mb in _JOB.findall(said)]
    return pd.DataFrame(rows, columns=["path", "rule", "minutes", "mb"]).set_index("path")


def read_measured(folder: Path) -> pd.DataFrame:
    """Seconds and greatest memory of each job, by the path of its benchmark."""
    paths = sorted((folder / "results/benchmarks").rglob("*.tsv"))
    names = [str(path.relative_to(folder)) for path in paths]
    return pd.concat([pd.read_csv(path, sep="\t") for path in paths]).set_axis(names)


@pytest.mark.slow
def test_rules_ask_for_what_they_take_and_not_for_much_more(smoke_run: Path) -> None:
    requests = read_requests((smoke_run / "said.txt").read_text())
    measured = read_measured(smoke_run)
    assert set(requests.index) == set(measured.index)
    jobs = requests.join(measured).groupby("rule").max(numeric_only=True)
    needed = jobs["max_rss"] + SNAKEMAKE_MB
    assert jobs.index[needed > jobs["mb"]].tolist() == []
    assert jobs.index[jobs["mb"] > (4 * needed).clip(lower=1500)].tolist() == []
    assert jobs.index[4 * jobs["s"] > 60 * jobs["minutes"]].tolist() == []
