"""The graph runs whole, in what its rules ask for; a second run does nothing.

What is mistyped stops before any job.
"""

import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from graph import ROOT, SMOKE, assert_ran, snakemake

from scgpt_core.data.cell_list import PARTITION

SNAKEMAKE_MB = 250
"""What Snakemake itself takes in a job of a cluster: 105 to 215 MB were measured."""
_PEAK = re.compile(r" and (\d+) MB of memory at most$", re.MULTILINE)
_GPUS = re.compile(
    r"^(?:local)?rule (\w+):$(?:\n    .*)*?\n    resources: .*?gpu=(\d+)", re.MULTILINE
)
_JOB = re.compile(
    r"^(?:local)?(?:rule|checkpoint) (\w+):$.*?"
    r"^    benchmark: (\S+)$.*?"
    r"^    resources: .*?runtime=(\d+).*? mem_mb=(\d+)",
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_graph_runs(smoke_run: Path) -> None:
    scores = pd.read_parquet(smoke_run / "results/benchmark/scores.parquet")
    assert list(scores.columns) == [
        "task",
        "dataset",
        "method",
        "seed",
        "metric",
        "value",
        "seconds",
    ]
    methods = scores.groupby("task")["method"].agg(set).to_dict()
    assert methods == {
        "integration": {"hvg_pca", "scgpt_zero_shot", "scgpt_finetuned"},
        "annotation": {"knn_pca", "scgpt_annotation"},
        "multiomics": {"rna_pca", "scgpt_multiomics"},
        "perturbation": {"technical_duplicate", "train_mean", "scgpt_perturbation"},
    }
    # Each type of the smoke cells is in every batch: none is isolated. Four genes of S are there.
    integration = scores[scores["task"] == "integration"]
    undefined = integration.loc[integration["value"].isna(), "metric"]
    assert set(undefined) <= {"isolated_f1", "isolated_asw", "cell_cycle"}
    for report in (
        "qc",
        "pretrain",
        "integration",
        "annotation",
        "multiomics",
        "perturbation",
        "mapping",
        "generation",
        "networks",
        "summary",
    ):
        html = (smoke_run / f"results/report/{report}.html").read_text()
        assert "<img" in html or report == "summary"
        assert ("Beside published values" in html) == (report in methods)
    for file in ("model.safetensors", "config.json", "vocab.json", "training.json", "README.md"):
        assert (smoke_run / "results/models/smoke" / file).stat().st_size > 0


@pytest.mark.slow
def test_a_second_run_does_nothing(smoke_run: Path) -> None:
    done = snakemake(smoke_run, "--dry-run")
    assert_ran(done)
    assert "Nothing to be done" in done.stdout + done.stderr


@pytest.mark.slow
def test_a_forced_rule_reruns_with_what_follows(smoke_run: Path) -> None:
    done = snakemake(smoke_run, "--dry-run", "--forcerun", "collect_scores")
    assert_ran(done)
    assert "collect_scores" in done.stdout
    assert "build_shard " not in done.stdout


@pytest.mark.slow
def test_of_a_new_method_alone_is_computed(smoke_run: Path) -> None:
    methods = [*yaml.safe_load(SMOKE.read_text())["benchmark"]["methods"], "harmony"]
    done = snakemake(smoke_run, "--dry-run", "--config", f"benchmark={{methods: {methods}}}")
    assert_ran(done)
    jobs = count_jobs(done.stdout)
    assert jobs.pop("baseline") == jobs.pop("score") == jobs.pop("collect_scores") == 1
    assert set(jobs) <= {
        "render_report",
        "benchmark",
        "report",
        "all",
        "total",
    }  # pages with scores


def test_until_and_rulegraph(tmp_path: Path) -> None:
    until = snakemake(tmp_path, "--dry-run", "--until", "query_census")
    assert_ran(until)
    assert "query_census" in until.stdout
    assert "build_vocab" not in until.stdout
    graph = snakemake(tmp_path, "--rulegraph")
    assert_ran(graph)
    for rule in ("query_census", "seal_shards", "pretrain", "build_index", "collect_scores"):
        assert rule in graph.stdout


def test_a_hosted_corpus_needs_no_network_to_be_planned(tmp_path: Path) -> None:
    done = snakemake(tmp_path, "--dry-run", configfile=ROOT / "config/census_blood.yaml")
    assert_ran(done)
    assert "query_census" in done.stdout
    assert "build_census" not in done.stdout


def test_a_plan_has_the_partitions_that_the_query_found(tmp_path: Path) -> None:
    """The cells of whole-human are made up; how many partitions they are in is not guessed."""
    cells = tmp_path / "results/census/whole-human/cells.parquet"
    cells.parent.mkdir(parents=True)
    n_partitions = 661  # 33 M cells
    table = pa.table({PARTITION: pa.array(range(n_partitions), pa.int32())})
    pq.write_table(table.replace_schema_metadata({"digest": "of these cells"}), cells)
    whole_human = ("--config", "corpus=whole-human", "model=whole-human")
    hosted = ROOT / "config/census_blood.yaml"
    done = snakemake(tmp_path, "--dry-run", *whole_human, configfile=hosted)
    assert_ran(done)
    jobs = count_jobs(done.stdout)
    assert jobs["download_partition"] == jobs["build_shard"] == n_partitions
    assert "query_census" not in jobs


def test_gpus_are_asked_for_where_the_config_has_them(tmp_path: Path) -> None:
    def gpus(*config: str) -> dict[str, int]:
        done = snakemake(tmp_path, "--dry-run", *config)
        assert_ran(done)
        return {rule: int(n) for rule, n in _GPUS.findall(done.stdout) if n != "0"}

    assert gpus() == {}
    trainer = "annotation={trainer: {device: cuda, processes: 2}}"
    asked = gpus("--config", "embed={device: cuda}", trainer)
    assert asked == {"annotate": 2, "embed": 1, "map_query": 1}  # others are behind the query


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("corpus=nobody", "corpus: nobody is in no row of its table; allowed: "),
        ("qc={min_gens: 3}", "qc.min_gens: no such key (found"),
        ("seed=x", "seed: "),
    ],
)
def test_a_mistyped_config_stops_at_parse_time(tmp_path: Path, setting: str, said: str) -> None:
    done = snakemake(tmp_path, "--dry-run", "--config", setting)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


def count_jobs(plan: str) -> dict[str, int]:
    """Jobs by rule, of what a dry run says."""
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", plan, re.MULTILINE)}


def read_requests(said: str) -> pd.DataFrame:
    """Rule, minutes and MB that each job asked for, by the path of its benchmark."""
    rows = [(path, rule, int(runtime), int(mb)) for rule, path, runtime, mb in _JOB.findall(said)]
    return pd.DataFrame(rows, columns=["path", "rule", "minutes", "mb"]).set_index("path")


def read_measured(folder: Path) -> pd.DataFrame:
    """Seconds and greatest memory of each job, by the path of its benchmark.

    Snakemake looks at a job each half second at first, then each half minute, and may miss its
    peak; the job's log ends with the peak of its first process, as the system counts it.
    """
    paths = sorted((folder / "results/benchmarks").rglob("*.tsv"))
    names = [str(path.relative_to(folder)) for path in paths]
    measured = pd.concat([pd.read_csv(path, sep="\t") for path in paths]).set_axis(names)
    logs = [folder / name.replace("/benchmarks/", "/logs/") for name in names]
    logged = [float(_PEAK.findall(log.with_suffix(".log").read_text())[-1]) for log in logs]
    return measured.assign(max_rss=measured["max_rss"].clip(lower=logged))


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
