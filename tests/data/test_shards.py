import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import anndata as ad
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix

from scgpt_core.config import QCSettings
from scgpt_core.data.corpus import open_corpus
from scgpt_core.data.partitions import Partition
from scgpt_core.data.qc import CleanCells
from scgpt_core.data.shards import OBS_COLUMNS, build_shard, seal_shards
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import DATASET_ID, DONOR_ID, SPECIAL_TOKENS


def read_shard(path: Path) -> pa.Table:
    """The rows of a shard, by pyarrow alone."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def seal(folder: Path, **changed) -> dict:
    shards = sorted(folder.glob("shard_*.arrow"))
    settings = {"heldout_by": DONOR_ID, "heldout_share": 0.2, "seed": 0, "corpus": "tiny"}
    return seal_shards(
        shards, folder / "vocab.json", folder / "manifest.json", **{**settings, **changed}
    )


@pytest.fixture
def own_folder(corpus_folder: Path, tmp_path: Path) -> Path:
    """A copy of the corpus to spoil."""
    return Path(shutil.copytree(corpus_folder, tmp_path / "corpus"))


# ------------------------------------------------------------------------------------------ build


def test_a_shard_holds_token_ids_and_counts(corpus_folder: Path, partitions: list[Path]) -> None:
    tokens = Vocabulary.load(corpus_folder / "vocab.json").tokens
    for number, path in enumerate(partitions):
        cells = ad.read_h5ad(path)
        shard = read_shard(corpus_folder / f"shard_{number}.arrow")
        assert shard["soma_joinid"].to_pylist() == cells.obs["soma_joinid"].tolist()
        for column in OBS_COLUMNS:
            assert shard[column].to_pylist() == cells.obs[column].tolist()
        for row in shard.slice(0, 5).to_pylist():
            assert row["genes"] == sorted(row["genes"])
            counts = cells[str(row["soma_joinid"])].to_df().iloc[0]
            expected = counts[(counts > 0) & counts.index.isin(tokens)].to_dict()
            genes = [tokens[id_] for id_ in row["genes"]]
            assert dict(zip(genes, row["counts"], strict=True)) == expected


def test_hugging_face_datasets_opens_shards_alone(corpus_folder: Path, tmp_path: Path) -> None:
    shards = sorted(map(str, corpus_folder.glob("shard_*.arrow")))
    script = (
        "import sys, datasets; cache, output, *shards = sys.argv[1:];"
        "rows = datasets.load_dataset('arrow', data_files=shards, split='train', cache_dir=cache);"
        "rows.to_parquet(output)"
    )
    command = [
        sys.executable,
        "-c",
        script,
        str(tmp_path / "cache"),
        str(tmp_path / "rows.parquet"),
    ]
    subprocess.run([*command, *shards], check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    found = pq.read_table(tmp_path / "rows.parquet")
    expected = pa.concat_tables(map(read_shard, map(Path, shards)), promote_options="permissive")
    assert found.to_pylist() == expected.to_pylist()


def test_token_ids_ascend_in_any_order_of_the_genes(
    corpus_folder: Path, partitions: list[Path], tmp_path: Path
) -> None:
    tokens = Vocabulary.load(corpus_folder / "vocab.json").tokens
    backwards = Vocabulary([*SPECIAL_TOKENS, *reversed(tokens[len(SPECIAL_TOKENS) :])])
    cells = CleanCells(Partition(partitions[0]), QCSettings())
    build_shard(cells, backwards, tmp_path / "shard_0.arrow")
    rows = read_shard(tmp_path / "shard_0.arrow").to_pylist()
    expected = read_shard(corpus_folder / "shard_0.arrow").to_pylist()
    for row, other in zip(rows, expected, strict=True):
        assert row["genes"] == sorted(row["genes"])
        genes = [backwards.tokens[id_] for id_ in row["genes"]]
        others = [tokens[id_] for id_ in other["genes"]]
        assert dict(zip(genes, row["counts"], strict=True)) == dict(
            zip(others, other["counts"], strict=True)
        )


def test_small_vocabularies_and_counts_take_two_bytes(corpus_folder: Path) -> None:
    schema = read_shard(corpus_folder / "shard_0.arrow").schema
    assert schema.field("genes").type == pa.list_(pa.uint16())
    assert schema.field("counts").type == pa.list_(pa.uint16())
    assert schema.field("cell_type").type == pa.dictionary(pa.int32(), pa.string())


class Cells:
    """Clean cells made up for what the real ones lack: great counts, and a great vocabulary."""

    def __init__(self, partition: Partition, count: float | None) -> None:
        self.partition, self.max_count, self.funnel = (
            partition,
            count,
            {"cells in": 80, "cells out": 80},
        )

    def blocks(self):
        shape = (80, len(self.partition.genes))
        counts = csr_matrix(([self.max_count or 0.5], ([0], [3])), shape, np.float32)
        yield self.partition.obs, counts


@pytest.mark.parametrize(
    ("n_tokens", "count", "types"),
    [
        (1 << 16, 65_535, (pa.uint16(), pa.uint16())),
        (1 << 16, 65_536, (pa.uint16(), pa.float32())),
        (1 << 16, None, (pa.uint16(), pa.float32())),
        ((1 << 16) + 1, 1, (pa.uint32(), pa.uint16())),
    ],
)
def test_types_grow_with_what_they_hold(
    n_tokens: int, count: float | None, types: tuple, partitions: list[Path], tmp_path: Path
) -> None:
    partition = Partition(partitions[0])
    genes = partition.genes["feature_id"].tolist()
    fillers = [f"filler{i}" for i in range(n_tokens - len(genes) - 3)]
    vocab = Vocabulary([*SPECIAL_TOKENS, *fillers, *genes])
    build_shard(Cells(partition, count), vocab, tmp_path / "shard_0.arrow")
    shard = read_shard(tmp_path / "shard_0.arrow")
    assert (
        shard.schema.field("genes").type.value_type,
        shard.schema.field("counts").type.value_type,
    ) == types
    assert shard["genes"][0].as_py() == [3 + len(fillers) + 3]
    assert shard["counts"][0].as_py() == [count or 0.5]


def test_quality_control_is_in_the_summary(
    partitions: list[Path], corpus_folder: Path, tmp_path: Path
) -> None:
    clean = CleanCells(Partition(partitions[0]), QCSettings(min_genes=600))
    vocab = Vocabulary.load(corpus_folder / "vocab.json")
    summary = build_shard(clean, vocab, tmp_path / "shard_0.arrow")
    few = (Partition(partitions[0]).obs["nnz"] < 600).sum()
    assert 0 < few < 80
    assert summary["funnel"]["fewer than 600 genes"] == few
    assert summary["funnel"]["cells out"] == summary["rows"] == 80 - few
    assert sum(n for *_, n in summary["groups"]) == 80 - few
    assert 0 < summary["counts_without_token"] < 0.05
    assert json.loads((tmp_path / "shard_0.json").read_text()) == summary


def test_a_vocabulary_of_other_genes_is_refused(partitions: list[Path], tmp_path: Path) -> None:
    partition = Partition(partitions[0])
    counts = np.asarray(ad.read_h5ad(partitions[0]).X.sum(axis=0)).ravel()
    rarest = partition.genes["feature_id"].to_numpy()[np.argsort(counts)[: len(counts) // 2]]
    cells = CleanCells(partition, QCSettings())
    with pytest.raises(ValueError, match=r"partition_0\.h5ad: .* of the counts have a token"):
        build_shard(cells, Vocabulary([*SPECIAL_TOKENS, *rarest]), tmp_path / "shard_0.arrow")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------- seal


def test_the_manifest_says_what_the_corpus_is(corpus_folder: Path) -> None:
    manifest = json.loads((corpus_folder / "manifest.json").read_text())
    assert manifest["n_cells"] == 220
    assert [shard["rows"] for shard in manifest["shards"]] == [80, 80, 60]
    assert manifest["funnel"]["cells in"] == 220
    assert manifest["census"]["obs_value_filter"] == "is_primary_data == True"


@pytest.mark.parametrize("heldout_by", [DONOR_ID, DATASET_ID])
@pytest.mark.parametrize("seed", range(3))
def test_whole_groups_are_held_out(heldout_by: str, seed: int, own_folder: Path) -> None:
    manifest = seal(own_folder, heldout_by=heldout_by, heldout_share=0.3, seed=seed)
    sides = {split: open_corpus(own_folder, split) for split in ("train", "heldout", "all")}
    groups = {
        split: set(zip(c.obs(DATASET_ID).to_pylist(), c.obs(heldout_by).to_pylist(), strict=True))
        for split, c in sides.items()
    }
    assert groups["train"] | groups["heldout"] == groups["all"]
    assert not groups["train"] & groups["heldout"]
    assert groups["heldout"]
    held = sides["heldout"].n_cells
    assert held == manifest["split"]["heldout_cells"] <= 0.3 * 220
    assert held + sides["train"].n_cells == 220
    assert manifest == seal(own_folder, heldout_by=heldout_by, heldout_share=0.3, seed=seed)
    if heldout_by == DONOR_ID:
        drawn = [seal(own_folder, heldout_share=0.3, seed=other) for other in range(8)]
        assert len({str(other["split"]["heldout"]) for other in drawn}) > 1


def test_a_share_below_all_groups_takes_the_smallest(own_folder: Path) -> None:
    sizes = Counter(open_corpus(own_folder).obs(DATASET_ID).to_pylist())
    manifest = seal(own_folder, heldout_by=DATASET_ID, heldout_share=0.01)
    assert manifest["split"]["heldout_cells"] == min(sizes.values())
    assert seal(own_folder, heldout_share=0)["split"]["heldout"] == []


def test_a_donor_is_one_in_its_data_set_only(own_folder: Path) -> None:
    for path in own_folder.glob("shard_*.json"):
        summary = json.loads(path.read_text())
        summary["groups"] = [[dataset, "unknown", n] for dataset, _, n in summary["groups"]]
        path.write_text(json.dumps(summary))
    assert seal(own_folder, heldout_share=0.3)["split"]["heldout_cells"] == 60


def test_one_donor_alone_cannot_be_held_out(own_folder: Path) -> None:
    for path in own_folder.glob("shard_*.json"):
        summary = json.loads(path.read_text())
        summary["groups"] = [["set", "donor", summary["rows"]]]
        path.write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=r"all cells are of .*donor.*heldout_share to 0"):
        seal(own_folder)


def test_all_cells_cannot_be_held_out(own_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"heldout_share of 1 holds out all 220 cells"):
        seal(own_folder, heldout_share=1)


def test_shards_of_another_vocabulary_are_refused(own_folder: Path) -> None:
    Vocabulary([*SPECIAL_TOKENS, "ENSG1"]).save(own_folder / "vocab.json")
    with pytest.raises(ValueError, match=r"shard_0\.arrow, .*built with another vocabulary"):
        seal(own_folder)


# ------------------------------------------------------------------------------------------- open


def test_cells_come_in_any_order_and_split(corpus_folder: Path) -> None:
    tables = [read_shard(path) for path in sorted(corpus_folder.glob("*.arrow"))]
    rows = {row["soma_joinid"]: row for table in tables for row in table.to_pylist()}
    rng = np.random.default_rng(0)
    for split in ("train", "heldout", "all"):
        corpus = open_corpus(corpus_folder, split)
        for wanted in (slice(None), rng.integers(0, corpus.n_cells, 50), np.array([], np.int64)):
            cells = corpus.cells(wanted)
            assert (cells.genes.dtype, cells.counts.dtype) == (np.int32, np.float32)
            assert len(cells.indptr) == len(cells.cell_ids) + 1
            for i, joinid in enumerate(cells.cell_ids.tolist()):
                part = slice(cells.indptr[i], cells.indptr[i + 1])
                assert cells.genes[part].tolist() == rows[joinid]["genes"]
                assert cells.counts[part].tolist() == rows[joinid]["counts"]
            if not isinstance(wanted, slice):
                np.testing.assert_array_equal(corpus.lengths(wanted), np.diff(cells.indptr))
        joinids = corpus.cells(slice(None)).cell_ids.tolist()
        assert corpus.obs("assay").to_pylist() == [rows[joinid]["assay"] for joinid in joinids]


def test_digests_tell_corpora_and_splits_apart(own_folder: Path) -> None:
    digests = [open_corpus(own_folder, split).digest for split in ("train", "heldout", "all")]
    seal(own_folder, seed=1, heldout_share=0.5)
    digests.append(open_corpus(own_folder, "train").digest)
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("truncated", r"shard_1\.arrow has \d+ bytes instead of \d+"),
        ("altered", r"shard_1\.arrow was altered"),
        ("missing", r"shard_1\.arrow is missing"),
        ("other vocabulary", r"vocab\.json is not the vocabulary"),
        ("edited manifest", r"manifest\.json was altered"),
        ("no manifest", r"no manifest\.json"),
    ],
)
def test_a_spoiled_corpus_is_refused_by_name(fault: str, said: str, own_folder: Path) -> None:
    shard, manifest = own_folder / "shard_1.arrow", own_folder / "manifest.json"
    content = bytearray(shard.read_bytes())
    if fault == "truncated":
        shard.write_bytes(content[:-8])
    elif fault == "altered":
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    elif fault == "missing":
        shard.unlink()
    elif fault == "other vocabulary":
        Vocabulary([*SPECIAL_TOKENS, "ENSG1"]).save(own_folder / "vocab.json")
    elif fault == "edited manifest":
        manifest.write_text(manifest.read_text().replace('"n_cells": 220', '"n_cells": 221'))
    else:
        manifest.unlink()
    with pytest.raises(ValueError, match=f"{re.escape(str(own_folder))}.*{said}"):
        open_corpus(own_folder, "train")
    if fault == "altered":  # sizes alone do not show it, nor do other shards
        assert open_corpus(own_folder, "all", verify=slice(0, None, 2)).n_cells == 220
        with pytest.raises(ValueError, match=said):
            open_corpus(own_folder, "all", verify=slice(1, None, 2))
        assert open_corpus(own_folder, "all", verify=False).n_cells == 220


# ------------------------------------------------------------------------------------------- kill

SLOW_JOB = """
import sys, time
from scgpt_core.config import QCSettings
from scgpt_core.data.partitions import Partition
from scgpt_core.data.qc import CleanCells
from scgpt_core.data.shards import build_shard
from scgpt_core.data.vocab import Vocabulary

class SlowCells(CleanCells):
    def blocks(self):
        yield from super().blocks()
        print("written", flush=True)
        time.sleep(600)

partition, vocab, output = sys.argv[1:]
build_shard(SlowCells(Partition(partition), QCSettings()), Vocabulary.load(vocab), output)
"""


@pytest.mark.slow
def test_a_killed_shard_job_leaves_nothing_that_passes_for_finished(
    own_folder: Path, partitions: list[Path]
) -> None:
    shard = own_folder / "shard_1.arrow"
    finished = shard.read_bytes()
    shard.unlink()
    shard.with_suffix(".json").unlink()
    arguments = [str(partitions[1]), str(own_folder / "vocab.json"), str(shard)]
    job = subprocess.Popen(
        [sys.executable, "-c", SLOW_JOB, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "written\n"
    os.kill(job.pid, signal.SIGKILL)
    job.communicate()
    assert not shard.exists()
    assert (own_folder / f".shard_1.partial-{job.pid}.arrow").exists()
    with pytest.raises(ValueError, match=r"shard_1\.arrow is missing"):
        open_corpus(own_folder)
    with pytest.raises(FileNotFoundError, match=r"shard_1\.json"):
        seal_shards(
            [own_folder / f"shard_{i}.arrow" for i in range(3)],
            own_folder / "vocab.json",
            own_folder / "manifest.json",
            corpus="tiny",
            heldout_by=DONOR_ID,
            heldout_share=0,
            seed=0,
        )
    vocab = Vocabulary.load(own_folder / "vocab.json")
    build_shard(CleanCells(Partition(partitions[1]), QCSettings()), vocab, shard)
    assert shard.read_bytes() == finished
    assert open_corpus(own_folder).n_cells == 220
