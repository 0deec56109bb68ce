"""Which changes of the config and its tables make finished work run again, and which do not."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from graph import ROOT, assert_ran, snakemake

from scgpt_core.data.cell_list import PARTITION
from scgpt_core.model.int8 import multiplies_int8

_OUTPUT = re.compile(r"^ +output: (.+)$", re.MULTILINE)
_RERUN = re.compile(r"^ +params have changed since last execution:\n +(.+)$", re.MULTILINE)
_ROW = re.compile(r"^pbmc3k\t.*$", re.MULTILINE)
TRAINED = ("pretrain", "integration", "annotation", "multiomics", "perturbation")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a smoke run that has ended, as Snakemake sees it: its files are empty."""
    folder = tmp_path_factory.mktemp("run")
    cells = folder / "results/census/smoke/cells.parquet"
    cells.parent.mkdir(parents=True)
    partitions = pa.table({PARTITION: pa.array([0, 1], pa.int32())})
    pq.write_table(partitions.replace_schema_metadata({"digest": "of these cells"}), cells)
    for outputs in _OUTPUT.findall(plan(folder)):
        for path in map(folder.joinpath, outputs.split(", ")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch() if path.suffix else path.mkdir()
    assert_ran(snakemake(folder, "--touch", "--forceall", *write_table(folder)))
    return folder


def write_table(folder: Path, **changes: str) -> tuple[str, str]:
    """Options of a run for which `pbmc3k` is at a URL and its row has these changes."""
    table = (ROOT / "config/datasets.tsv").read_text()
    row = _ROW.search(table)
    assert row is not None
    header = table.partition("\n")[0].split("\t")
    cells = dict(zip(header, row[0].split("\t"), strict=True))
    cells |= {"path": "https://example.org/pbmc3k.h5ad", **changes}
    (folder / "datasets.tsv").write_text(table.replace(row[0], "\t".join(cells.values())))
    return "--config", f"datasets={folder}/datasets.tsv"


def plan(folder: Path, *config: str, **changes: str) -> str:
    """What a dry run says, with changes of the config and of the row of `pbmc3k`."""
    done = snakemake(folder, "--dry-run", *write_table(folder, **changes), *config)
    assert_ran(done)
    return done.stdout + done.stderr


def rerun(said: str) -> set[str]:
    """Rules whose jobs are told other params than in the run before."""
    found = _RERUN.search(said)
    return set(found[1].split(", ")) if found else set()


def test_what_changes_no_result_reruns_nothing(finished: Path) -> None:
    trainer = (
        "{device: cpu, nodes: 2, processes: 3, checkpoint_minutes: 3, keep_checkpoints: 5,"
        " log_steps: 7, trackers: [wandb], time_budget_minutes: 90, time_margin_minutes: 2,"
        " attention: plain, compile: true, activation_checkpointing: true, parallel: fsdp%s}"
    )
    anew = "{batch_size: 7, min_matched: 0.1, device: cpu}"
    said = plan(
        finished,
        "census={attempts: 9, tiledb: {vfs.s3.proxy_host: proxy.example.org}}",
        f"pretrain={{trainer: {trainer % ', micro_batch_cells: 7'}}}",
        *(f"{section}={{trainer: {trainer % ''}}}" for section in TRAINED[1:]),
        *(f"{section}={anew}" for section in ("embed", "generation")),
        "networks={min_matched: 0.1, device: cpu}",
        description="Said otherwise",
    )
    assert "Nothing to be done" in said
    assert "missing provenance" not in said


def test_no_param_tells_where_the_repository_lies(finished: Path) -> None:
    records = [json.loads(path.read_text()) for path in finished.glob(".snakemake/metadata/*")]
    assert "pretrain" in {record["rule"] for record in records}
    assert str(ROOT) not in str([record["params"] for record in records])


def test_pages_are_told_that_a_model_was_imported(finished: Path) -> None:
    published = finished / "published"
    published.mkdir()
    for name in ("args.json", "best_model.pt", "vocab.json"):
        (published / name).touch()
    said = plan(finished, f"checkpoints={{smoke: {published}}}")
    assert "'stand_in': 'smoke'" in said  # among the params of a page that have changed


def test_what_changes_results_reruns_what_it_is_told_to(finished: Path) -> None:
    """What follows from these jobs runs again because of their outputs."""
    said = plan(
        finished,
        *(f"{section}={{trainer: {{batch_cells: 7}}}}" for section in TRAINED[1:]),
        "embed={max_tokens: 7}",
        "networks={zeros: false}",
        label_key="",
    )
    assert rerun(said) == {
        *("prepare_dataset", "finetune", "annotate", "finetune_modalities", "perturb"),
        *("embed", "embed_corpus", "embed_reference", "attend_genes", "knock_out_genes"),
    }


@pytest.mark.skipif(not multiplies_int8(), reason="needs AVX2")
def test_portable_numbers_are_other_numbers(finished: Path) -> None:
    said = plan(finished, "portable_numerics=true")
    assert {"pretrain", "prepare_dataset"} <= rerun(said)  # nearly all else follows from these
