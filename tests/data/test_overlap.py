from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from scgpt_core.config import QCSettings
from scgpt_core.data.cells import Cells, cells_from_csr
from scgpt_core.data.corpus import Corpus, open_corpus
from scgpt_core.data.genes import match_var
from scgpt_core.data.overlap import check_dataset, find_overlap
from scgpt_core.data.partitions import Partition
from scgpt_core.data.qc import CleanCells
from scgpt_core.data.shards import build_shard, seal_shards

ZHENG = "pbmc_zheng_facs"


@pytest.fixture(scope="module")
def corpus(corpus_folder: Path) -> Corpus:
    """Its first 100 cells are of `ZHENG`."""
    return open_corpus(corpus_folder)


def by_tokens(cells: ad.AnnData, corpus: Corpus) -> Cells:
    return cells_from_csr(
        cells.X.indptr,
        cells.X.indices,
        cells.X.data,
        token_ids=match_var(cells.var, corpus.vocab).ids,
        cell_ids=np.arange(cells.n_obs),
    )


def test_cells_are_known_again_by_their_counts(corpus: Corpus, resources: Path) -> None:
    cells = ad.read_h5ad(resources / f"cells/{ZHENG}.h5ad")
    step = cells.n_obs // 100
    taken = np.arange(0, cells.n_obs, step)[:100]
    chosen = np.concatenate([taken[:30], taken[:30] + 1])  # 30 of the corpus, and their neighbours
    overlap = find_overlap(corpus, by_tokens(cells[chosen].copy(), corpus))
    assert overlap.shared_N.tolist() == [True] * 30 + [False] * 30
    assert overlap.by_dataset == {ZHENG: 30}


def test_a_study_with_fewer_genes_and_other_names_has_the_same_cells(
    corpus: Corpus, source_table: Path
) -> None:
    cells = ad.read_h5ad(source_table.parent / f"{ZHENG}.h5ad")
    fewer = cells[:40, np.random.default_rng(0).random(cells.n_vars) < 0.5].copy()
    fewer.X.data[fewer.X.indices == fewer.X.indices[0]] += 1  # one gene was counted otherwise
    shared = find_overlap(corpus, by_tokens(fewer, corpus)).shared_N
    assert shared.mean() > 0.9


def test_cells_that_cannot_be_compared_are_counted(
    corpus: Corpus, partitions: list[Path], resources: Path, tmp_path: Path
) -> None:
    cells = ad.read_h5ad(resources / f"cells/{ZHENG}.h5ad")[:20].copy()
    whole = find_overlap(corpus, by_tokens(cells, corpus))
    assert not whole.unchecked_N.any()
    assert whole.divided_cells == 0
    for row in range(5):
        genes = slice(cells.X.indptr[row] + 10, cells.X.indptr[row + 1])
        cells.X.data[genes] = 0
    cells.X.eliminate_zeros()
    few = find_overlap(corpus, by_tokens(cells, corpus))
    assert few.unchecked_N.tolist() == [True] * 5 + [False] * 15

    corpus.vocab.save(tmp_path / "vocab.json")
    full_length = QCSettings(full_length_assays=("10x 3' v2",))
    shard = tmp_path / "shard_0.arrow"
    build_shard(CleanCells(Partition(partitions[0]), full_length), corpus.vocab, shard)
    seal_shards(
        [shard], tmp_path / "vocab.json", tmp_path / "manifest.json",
        corpus="divided", heldout_by="donor_id", heldout_share=0, seed=0,
    )  # fmt: skip
    divided = find_overlap(open_corpus(tmp_path), by_tokens(cells, corpus))
    assert divided.divided_cells == 80
    assert divided.unchecked_N.all()
    assert not divided.shared_N.any()


def test_a_data_set_is_told_with_those_of_its_name(
    corpus: Corpus, resources: Path, tmp_path: Path
) -> None:
    cells = ad.read_h5ad(resources / f"cells/{ZHENG}.h5ad")[:20].copy()
    cells.obs["dataset_id"] = [*["pbmc_kang_harmony2k"] * 5, *["elsewhere"] * 15]
    cells.write_h5ad(tmp_path / f"{ZHENG}.h5ad")
    found = check_dataset(corpus, tmp_path / f"{ZHENG}.h5ad")
    assert found["datasets"] == ["pbmc_kang_harmony2k", ZHENG]
    assert found["cells"] == 20
    assert found["shared_with"] == {ZHENG: found["shared"]}
    assert found["unchecked"] == found["divided_in_corpus"] == 0
    cells.var_names = [f"gene{i}" for i in range(cells.n_vars)]
    cells.var = cells.var[[]]
    cells.write_h5ad(tmp_path / "mine.h5ad")
    with pytest.raises(ValueError, match=r"mine\.h5ad: 0\.0% of the counts have a token"):
        check_dataset(corpus, tmp_path / "mine.h5ad")


@pytest.mark.parametrize("name", ["pbmc3k_160_balanced", "pbmc_symphony_3tech"])
def test_other_studies_of_the_same_tissue_share_nothing(
    name: str, corpus: Corpus, resources: Path
) -> None:
    cells = ad.read_h5ad(resources / f"cells/{name}.h5ad")
    overlap = find_overlap(corpus, by_tokens(cells, corpus))
    assert not overlap.shared_N.any()
    assert overlap.by_dataset == {}
