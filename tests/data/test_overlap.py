from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from scgpt_core.data.cells import Cells, cells_from_csr
from scgpt_core.data.genes import match_var
from scgpt_core.data.overlap import find_overlap
from scgpt_core.data.shards import Corpus, open_corpus

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


@pytest.mark.parametrize("name", ["pbmc3k_160_balanced", "pbmc_symphony_3tech"])
def test_other_studies_of_the_same_tissue_share_nothing(
    name: str, corpus: Corpus, resources: Path
) -> None:
    cells = ad.read_h5ad(resources / f"cells/{name}.h5ad")
    overlap = find_overlap(corpus, by_tokens(cells, corpus))
    assert not overlap.shared_N.any()
    assert overlap.by_dataset == {}
