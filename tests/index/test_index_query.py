"""From a corpus and a model to a mapped data set, on real cells and a model of random weights."""

import tracemalloc
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from scgpt_core.checkpoint import save_checkpoint
from scgpt_core.config import (
    DatasetRow,
    EmbedSettings,
    IndexSettings,
    MappingSettings,
    ModelConfig,
    QCSettings,
)
from scgpt_core.data.cells import Cells
from scgpt_core.data.corpus import open_corpus
from scgpt_core.data.partitions import Partition
from scgpt_core.data.qc import CleanCells
from scgpt_core.data.shards import build_shard, seal_shards
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.index import Embeddings, build_index, open_index, read_ontology, sources
from scgpt_core.index.baselines import Prediction, predict_baselines
from scgpt_core.index.corpus import embed_reference, embed_shard
from scgpt_core.index.query import map_dataset, score_mapping
from scgpt_core.index.sources import CorpusCells, DatasetCells, open_source, sample_labelled
from scgpt_core.keys import SOMA_JOINID, SPECIAL_TOKENS
from scgpt_core.model import ScGPT
from scgpt_core.runs import read_json
from scgpt_core.tasks.datasets import prepare_dataset

ONTOLOGY = Path(__file__).parents[2] / "resources/cell_ontology.tsv"
EMBED = EmbedSettings(max_tokens=64, max_counts=500, precision="float32", device="cpu")
MAPPING = MappingSettings(neighbours=5, calibrate_across=None)


def save_model(folder: Path, vocab: Vocabulary) -> Path:
    config = ModelConfig(
        width=16,
        n_layers=1,
        n_heads=2,
        ffn_width=16,
        n_tokens=vocab.n_tokens,
        pad_id=vocab.pad_id,
        cls_id=vocab.cls_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_checkpoint(folder, ScGPT(config), vocab, {})
    return folder


@pytest.fixture(scope="module")
def model_folder(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    vocab = Vocabulary.load(corpus_folder / "vocab.json")
    return save_model(tmp_path_factory.mktemp("model"), vocab)


@pytest.fixture(scope="module")
def index_folder(
    corpus_folder: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("index")
    files = []
    for shard in sorted(corpus_folder.glob("shard_*.arrow")):
        files.append(folder / "embeddings" / shard.name)
        embed_shard(shard, model_folder, files[-1], settings=EMBED, seed=3)
    build_index(files, folder, settings=IndexSettings())
    return folder


@pytest.fixture
def map_cells(corpus_folder: Path, model_folder: Path, index_folder: Path, tmp_path: Path) -> Any:
    def mapped(dataset: Path, embed: EmbedSettings = EMBED) -> tuple[pd.DataFrame, dict[str, Any]]:
        map_dataset(
            dataset,
            model_folder,
            index_folder,
            [corpus_folder / "manifest.json"],
            tmp_path / "map",
            settings=MAPPING,
            embed=embed,
            ontology=ONTOLOGY,
            seed=0,
            threads=1,
        )
        written = {path.name for path in (tmp_path / "map").iterdir()}
        assert written == {"mapping.parquet", "embedding.h5ad", "run.json"}
        table = pq.read_table(tmp_path / "map/mapping.parquet").to_pandas()
        embedding = ad.read_h5ad(tmp_path / "map/embedding.h5ad")
        assert embedding.obs_names.tolist() == table["cell"].tolist()
        assert embedding.obsm["X_emb"].shape == (len(table), 16)
        return table, read_json(tmp_path / "map/run.json")

    return mapped


def test_every_cell_of_the_corpus_is_embedded_once(corpus_folder: Path, index_folder: Path) -> None:
    corpus = open_corpus(corpus_folder)
    embeddings = Embeddings(sorted((index_folder / "embeddings").glob("*.arrow")))
    joinids = np.concatenate([batch[SOMA_JOINID].to_numpy() for batch in embeddings.obs()])
    np.testing.assert_array_equal(joinids, corpus.cells(slice(None)).cell_ids)
    assert embeddings.origin["corpora"] == {corpus.manifest["digest"]: embeddings.n_cells}
    assert embeddings.origin["settings"] == {"max_tokens": 64, "max_counts": 500, "seed": 3}
    assert {"cell_type", "dataset_id", "donor_id", "disease"} <= set(embeddings.columns)


def test_cells_of_the_corpus_find_themselves(
    corpus_folder: Path, partitions: list[Path], map_cells: Any
) -> None:
    table, run = map_cells(partitions[0])
    cells = ad.read_h5ad(partitions[0]).obs
    labelled = (cells["cell_type"] != "unknown").to_numpy()
    assert table["cell"].tolist() == cells.index.tolist()
    assert table["label"].isna().tolist() == (~labelled).tolist()
    # Quality control keeps some cells out of the corpus.
    joinids = cells[SOMA_JOINID].to_numpy()
    there = labelled & np.isin(joinids, open_corpus(corpus_folder).cells(slice(None)).cell_ids)
    assert there.sum() > 50
    assert table["neighbour_soma_joinid"].str[0][there].tolist() == joinids[there].tolist()
    np.testing.assert_allclose(table["neighbour_similarity"].str[0][there], 1, atol=1e-6)
    assert run["n_cells"] == len(cells)
    assert set(run["scores"]) == {"scgpt", "pca_knn", "logistic_regression"}
    assert run["scores"]["scgpt"]["cells"] == labelled.sum()
    assert run["scores"]["logistic_regression"]["accuracy"] > 0.9


def test_cells_without_labels_are_mapped_and_not_scored(
    resources: Path, tmp_path: Path, map_cells: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """In another format than the reference here, which is told."""
    cells = ad.read_h5ad(resources / "cells/pbmc_citeseq_10x_400_unlabelled.h5ad")[:9].copy()
    cells.obs["label"] = "unknown"
    cells.write_h5ad(tmp_path / "query.h5ad")
    other = EMBED.model_copy(update={"precision": "bfloat16"})
    table, run = map_cells(tmp_path / "query.h5ad", other)
    assert table["predicted"].notna().all()
    assert table["label"].isna().all()
    assert run["scores"] == {}
    assert "the reference was embedded in float32, the query is in bfloat16" in caplog.text


def test_a_data_set_of_your_own_is_a_reference(
    resources: Path, model_folder: Path, tmp_path: Path
) -> None:
    row = DatasetRow(
        dataset="own",
        path="pbmc3k_160_balanced.h5ad",
        label_key="cell_type",
        batch_key="batch",
        obs_columns=("donor", "tissue"),
    )
    source, dataset = resources / f"cells/{row.path}", tmp_path / "own.h5ad"
    prepare_dataset(row, source, dataset, cell_types=resources / "cell_types.tsv")
    file, index = tmp_path / "embeddings/shard_0.arrow", tmp_path / "index"
    embed_reference(dataset, model_folder, file, settings=EMBED, seed=0)
    build_index([file], index, settings=IndexSettings())
    map_dataset(
        dataset,
        model_folder,
        index,
        [dataset],
        tmp_path / "map",
        settings=MAPPING.model_copy(update={"label_column": "label"}),
        embed=EMBED,
        ontology=ONTOLOGY,
        seed=0,
        threads=1,
    )
    table = pq.read_table(tmp_path / "map/mapping.parquet").to_pandas()
    cells = ad.read_h5ad(dataset).obs
    assert set(cells["donor"]) == set(ad.read_h5ad(source).obs["donor"])
    np.testing.assert_allclose(table["neighbour_similarity"].str[0], 1, atol=1e-6)
    assert table["neighbour_cell_type"].str[0].tolist() == cells["cell_type"].tolist()
    assert open_index(index).labels.columns == [
        "donor", "tissue", "dataset_id", "label", "cell_type", "cell_type_ontology_term_id",
    ]  # fmt: skip
    scores = read_json(tmp_path / "map/run.json")["scores"]
    assert scores["logistic_regression"]["accuracy"] > 0.9
    with pytest.raises(ValueError, match="of the counts have a token in the vocabulary"):
        DatasetCells(dataset, Vocabulary(["ACTB", *SPECIAL_TOKENS]), min_matched=0.5)


@pytest.fixture
def prepare_own(resources: Path, tmp_path: Path) -> Any:
    def prepared(name: str, **changes: Any) -> Path:
        cells = ad.read_h5ad(resources / "cells/pbmc3k_160_balanced.h5ad")[:20].copy()
        cells.obs["sample"] = np.array(["a", "b"])[np.arange(20) % 2]
        cells.obs["dataset_id"] = "collection"
        cells.write_h5ad(tmp_path / "source.h5ad")
        row = DatasetRow(dataset=name, path="source.h5ad", label_key="cell_type", **changes)
        source, output = tmp_path / row.path, tmp_path / f"{name}.h5ad"
        prepare_dataset(row, source, output, cell_types=resources / "cell_types.tsv")
        return output

    return prepared


def test_equal_batches_of_two_references_are_two_data_sets(
    prepare_own: Any, corpus_folder: Path
) -> None:
    vocab = Vocabulary.load(corpus_folder / "vocab.json")
    for name in ("one", "two"):
        cells = DatasetCells(prepare_own(name, batch_key="sample"), vocab)
        assert cells.column("dataset_id").to_pylist() == 10 * [f"{name}/a", f"{name}/b"]
    cells = DatasetCells(prepare_own("three"), vocab)
    assert set(cells.column("dataset_id").to_pylist()) == {"three"}
    with pytest.raises(ValueError, match="no obs column 'colour'; it has: dataset_id, label"):
        cells.column("colour")


def test_a_data_set_may_say_itself_of_which_data_sets_it_is(
    prepare_own: Any, model_folder: Path, tmp_path: Path
) -> None:
    own = prepare_own("own", batch_key="sample", obs_columns=("dataset_id",))
    embed_reference(own, model_folder, tmp_path / "shard_0.arrow", settings=EMBED, seed=0)
    embeddings = Embeddings([tmp_path / "shard_0.arrow"])
    assert embeddings.origin["precision"] == "float32"
    (obs,) = embeddings.obs()
    assert set(obs["dataset_id"].to_pylist()) == {"collection"}
    assert obs["batch"].to_pylist() == 10 * ["a", "b"]


def test_a_shard_whose_cells_were_all_dropped_is_passed_over(
    corpus_folder: Path, model_folder: Path, partitions: list[Path], tmp_path: Path
) -> None:
    vocab = Vocabulary.load(corpus_folder / "vocab.json")
    vocab.save(tmp_path / "vocab.json")
    shards, files = [], []
    for number, wanted in enumerate([("none of these",), None]):
        shards.append(tmp_path / f"shard_{number}.arrow")
        cells = CleanCells(Partition(partitions[number]), QCSettings(assays=wanted))
        build_shard(cells, vocab, shards[-1])
    manifest = seal_shards(
        shards, tmp_path / "vocab.json", tmp_path / "manifest.json",
        corpus="tiny", heldout_by="donor_id", heldout_share=0, seed=0,
    )  # fmt: skip
    for shard in shards:
        files.append(tmp_path / "embeddings" / shard.name)
        embed_shard(shard, model_folder, files[-1], settings=EMBED, seed=3)
    assert Embeddings(files).n_cells == open_corpus(tmp_path).n_cells == manifest["n_cells"] == 80


def test_a_model_of_another_vocabulary_reads_the_same_genes(corpus_folder: Path) -> None:
    corpus = open_corpus(corpus_folder)
    tokens, symbols = corpus.vocab.tokens, corpus.vocab.symbols
    # The same genes backwards, by symbol, without the last hundred.
    genes = [symbol for symbol in symbols if not symbol.startswith("<")][:-100]
    vocab = Vocabulary([*reversed(genes), *SPECIAL_TOKENS])
    rows = np.array([7, 3])
    cells, there = CorpusCells(corpus, vocab, min_matched=0.5).read(rows), corpus.cells(rows)
    for i in range(2):
        part, old = (slice(*c.indptr[i : i + 2]) for c in (cells, there))
        found = {
            vocab.tokens[gene]: n
            for gene, n in zip(cells.genes[part], cells.counts[part], strict=True)
        }
        kept = set(genes)
        expected = {
            symbols[gene]: n
            for gene, n in zip(there.genes[old], there.counts[old], strict=True)
            if symbols[gene] in kept
        }
        assert found == expected
    with pytest.raises(ValueError, match="of the genes have a token in the vocabulary"):
        CorpusCells(corpus, Vocabulary([tokens[3], *SPECIAL_TOKENS]), min_matched=0.5)


def test_labelled_cells_are_drawn_from_all_sources(corpus_folder: Path) -> None:
    corpus = open_corpus(corpus_folder)
    names = corpus.obs("cell_type").to_pylist()
    n_labelled = sum(name != "unknown" for name in names)
    twice = [open_source(corpus_folder / "manifest.json", corpus.vocab)] * 2
    cells, labels = sample_labelled(twice, "cell_type", n_cells=10**6, seed=0)
    assert len(labels) == len(cells.cell_ids) == 2 * n_labelled
    assert labels.tolist() == 2 * [name for name in names if name != "unknown"]
    few, few_labels = sample_labelled(twice, "cell_type", n_cells=20, seed=0)
    of_cell = dict(zip(cells.cell_ids, labels, strict=True))
    assert [of_cell[cell] for cell in few.cell_ids] == few_labels.tolist()


class ManyCells:
    """Cells of which most have a label, in a source too large for texts of all of them."""

    def __init__(self, n_cells: int) -> None:
        self.n_cells = n_cells

    def read(self, rows: np.ndarray) -> Cells:
        return Cells(np.zeros(len(rows) + 1, np.int64), *[np.array([])] * 2, rows)

    def column(self, name: str) -> pa.DictionaryArray:
        labels = pa.array(["T cell" + 60 * "-", "unknown", "B cell" + 60 * "-"])
        codes = np.arange(self.n_cells, dtype=np.int32) % 3
        return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes == 2), labels)


def test_labels_of_cells_that_are_not_drawn_take_little_memory() -> None:
    source = ManyCells(10**6)
    tracemalloc.start()
    cells, labels = sample_labelled([source, source], "cell_type", n_cells=100, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # 264 bytes a text of a cell would be 528 MB
    assert set(cells.cell_ids % 3) == {0}
    assert len(set(cells.cell_ids)) > 90
    assert labels.tolist() == 100 * ["T cell" + 60 * "-"]


def test_a_query_is_read_block_by_block(
    partitions: list[Path], map_cells: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, run = map_cells(partitions[0])
    read, sizes = DatasetCells.read, []

    def watched(self: DatasetCells, rows: np.ndarray) -> Cells:
        sizes.append(len(rows))
        return read(self, rows)

    monkeypatch.setattr(sources, "CHUNK_CELLS", 16)
    monkeypatch.setattr(DatasetCells, "read", watched)
    in_blocks, run_in_blocks = map_cells(partitions[0])
    assert max(sizes) == 16
    assert sum(sizes) == 3 * len(table)
    pd.testing.assert_frame_equal(in_blocks, table, rtol=1e-4)
    for name, scores in run["scores"].items():
        assert run_in_blocks["scores"][name] == pytest.approx(scores, rel=1e-4)


def test_another_model_is_refused(
    corpus_folder: Path, index_folder: Path, partitions: list[Path], tmp_path: Path
) -> None:
    vocab = Vocabulary.load(corpus_folder / "vocab.json")
    other = save_model(tmp_path / "other", Vocabulary(vocab.tokens[:-1]))
    with pytest.raises(ValueError, match="embed the queries with the model of the reference"):
        map_dataset(
            partitions[0],
            other,
            index_folder,
            [corpus_folder / "manifest.json"],
            tmp_path / "map",
            settings=MAPPING,
            embed=EMBED,
            ontology=ONTOLOGY,
            seed=0,
            threads=1,
        )
    assert not (tmp_path / "map/mapping.parquet").exists()


def test_baselines_find_types_at_any_depth() -> None:
    rng = np.random.default_rng(0)

    def cells(types: np.ndarray, depth: float, genes: int) -> Cells:
        rates = np.full((3, genes), 0.5)
        rates[[0, 1, 2], [0, 1, 2]] = 20
        counts = rng.poisson(depth * rates[types]).astype(np.float32)
        indptr = np.concatenate([[0], np.cumsum((counts > 0).sum(axis=1))])
        return Cells(indptr, np.nonzero(counts)[1].astype(np.int32), counts[counts > 0], types)

    names = np.array(["A", "B", "C"])
    train, test = rng.integers(0, 3, 90), rng.integers(0, 3, 60)
    # The reference has genes that the query lacks.
    found = predict_baselines(
        cells(train, 20, genes=40), names[train], cells(test, 200, genes=30), k=5, seed=0
    )
    assert set(found) == {"pca_knn", "logistic_regression"}
    for prediction in found.values():
        assert (prediction.label_Q == names[test]).mean() > 0.95
        assert ((prediction.confidence_Q > 1 / 3) & (prediction.confidence_Q <= 1)).all()


def test_scores_by_hand() -> None:
    truth = np.array(["T cell", "T cell", "B cell", "monocyte", "unknown"])
    predicted = np.array(
        ["CD4-positive, alpha-beta T cell", "B cell", "B cell", "leukocyte", "B cell"]
    )
    prediction = Prediction(predicted, np.array([0.95, 0.95, 0.95, 0.05, 0.0]))
    found = score_mapping(prediction, truth, truth != "unknown", read_ontology(ONTOLOGY))
    # A kind of T cell is a T cell; a leukocyte need not be a monocyte.
    # F1: T cell 1 of 2 found, none wrong: 2/3; B cell 1 of 1 found, one wrong: 2/3; monocyte 0.
    # Calibration: at 0.95 two of three are right, at 0.05 none of one.
    assert found == {
        "cells": 4,
        "accuracy": pytest.approx(0.5),
        "macro_f1": pytest.approx(4 / 9),
        "calibration_error": pytest.approx((3 * 0.95 - 2 + 0.05) / 4),
    }
