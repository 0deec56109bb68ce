"""Cells of later batches are embedded by the model of an integration."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from tiny_model import save_tiny_model

from scgpt_core.checkpoint import TRAINING, load_checkpoint
from scgpt_core.config import DatasetRow, IntegrationSettings
from scgpt_core.data.collate import TokenSettings
from scgpt_core.data.sources import ArraySource
from scgpt_core.keys import EMBEDDING
from scgpt_core.runs import read_json
from scgpt_core.tasks.datasets import prepare_dataset
from scgpt_core.tasks.fitting import loader_of_all
from scgpt_core.tasks.integration import integrate_dataset
from scgpt_core.tasks.projection import _add_domains, embed_later_cells, read_later

ROOT = Path(__file__).parents[2]
SETTINGS = IntegrationSettings.model_validate(
    {"n_genes": 80, "epochs": 15, "ecs_weight": 0,
     "trainer": {"batch_cells": 16, "learning_rate": 1e-2, "device": "cpu",
                 "precision": "float32"}}
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[ad.AnnData, ad.AnnData, Path]:
    """200 cells of two technologies, integrated; 50 cells of a third; the model."""
    folder = tmp_path_factory.mktemp("integration")
    cells = ad.read_h5ad(ROOT / "resources/cells/pbmc_symphony_3tech.h5ad")
    first = cells[cells.obs["batch"] != "10x_5p"][::4].copy()
    later = cells[cells.obs["batch"] == "10x_5p"][::8].copy()
    first.write_h5ad(folder / "source.h5ad")
    row = DatasetRow.model_validate(
        {"dataset": "cells", "path": str(folder / "source.h5ad"), "batch_key": "batch",
         "label_key": "cell_type"}
    )  # fmt: skip
    prepare_dataset(
        row, folder / "source.h5ad", folder / "cells.h5ad",
        cell_types=ROOT / "resources/cell_types.tsv",
    )  # fmt: skip
    save_tiny_model(folder / "tiny", sorted(first.var_names))
    integrate_dataset(
        folder / "cells.h5ad", folder / "tiny", folder / "out", state_folder=folder / "state",
        settings=SETTINGS, init="pretrained", seed=5,
    )  # fmt: skip
    integrated = ad.read_h5ad(folder / "out/embedding.h5ad")
    first.obsm[EMBEDDING] = integrated.obsm[EMBEDDING]
    return first, later, folder / "out/model"


def test_cells_of_known_batches_get_their_embeddings_again(
    finished: tuple[ad.AnnData, ad.AnnData, Path], tmp_path: Path
) -> None:
    first, _, model = finished
    some = first[10:60:3].copy()
    again = embed_later_cells(some, model, batch_key="batch", device="cpu", seed=5)
    np.testing.assert_allclose(again, some.obsm[EMBEDDING], atol=1e-5)
    some.write_h5ad(tmp_path / "some.h5ad")
    backed = ad.read_h5ad(tmp_path / "some.h5ad", backed="r")
    from_file = embed_later_cells(backed, model, batch_key="batch", device="cpu", seed=5)
    np.testing.assert_array_equal(from_file, again)


def test_a_new_batch_lies_among_the_cells_of_its_types(
    finished: tuple[ad.AnnData, ad.AnnData, Path],
) -> None:
    first, later, model = finished
    emb = embed_later_cells(later, model, batch_key="batch", device="cpu", seed=5)
    np.testing.assert_allclose(np.linalg.norm(emb, axis=1), 1, rtol=1e-5)
    nearest = (emb @ first.obsm[EMBEDDING].T).argmax(axis=1)
    labels = first.obs["cell_type"].to_numpy()
    right = np.mean(labels[nearest] == later.obs["cell_type"].to_numpy())
    by_chance = np.mean(labels[:, None] == later.obs["cell_type"].to_numpy())
    assert right > by_chance + 0.15


def test_a_batch_under_another_name_is_embedded_nearly_alike(
    finished: tuple[ad.AnnData, ad.AnnData, Path],
) -> None:
    """Statistics of its tokens stand for the running ones that training left behind."""
    first, _, model = finished
    batch = first[first.obs["batch"] == "10x_3pv2"].copy()
    known = batch.obsm[EMBEDDING]
    renamed = embed_later_cells(batch, model, device="cpu", seed=5)
    assert (known * renamed).sum(axis=1).mean() > 0.95


def test_the_statistics_of_a_new_batch_are_those_of_its_tokens(
    finished: tuple[ad.AnnData, ad.AnnData, Path],
) -> None:
    _, later, folder = finished
    ckpt, genes = load_checkpoint(folder, "cpu"), read_json(folder / TRAINING)["genes"]
    cells, _ = read_later(later, ckpt.vocab, genes, 0)
    tokens = TokenSettings.of_model(
        ckpt.config, max_tokens=len(genes) + 1, cls_value=0, genes=tuple(genes)
    )
    norm = ckpt.model.domain_norm
    batch = np.full(later.n_obs, len(norm.domains))
    loader = loader_of_all(ArraySource(cells, batch=batch), tokens, 0)
    _add_domains(ckpt.model, loader, 1)
    ckpt.model.domain_norm = None
    x_BLD = torch.cat(
        [ckpt.model.embed_tokens(ckpt.model.gene_embedding(b.ids_BL), b) for b in loader.batches()]
    )
    torch.testing.assert_close(norm.domains[-1].running_mean, x_BLD.mean((0, 1)))
    torch.testing.assert_close(norm.domains[-1].running_var, x_BLD.var((0, 1), unbiased=False))


def test_genes_that_were_not_measured_are_not_zeros(
    finished: tuple[ad.AnnData, ad.AnnData, Path],
) -> None:
    _, later, model = finished
    fewer = later[:, ::2].copy()
    emb = embed_later_cells(fewer, model, batch_key="batch", device="cpu")
    counts = later.X.toarray()
    counts[:, 1::2] = 0
    zeros = ad.AnnData(counts, obs=later.obs, var=later.var)
    other = embed_later_cells(zeros, model, batch_key="batch", device="cpu")
    assert np.isfinite(emb).all()
    assert np.abs(emb - other).max() > 1e-3


def test_a_model_of_another_kind_is_refused(
    finished: tuple[ad.AnnData, ad.AnnData, Path],
) -> None:
    _, later, model = finished
    with pytest.raises(ValueError, match="was not fine-tuned for integration"):
        embed_later_cells(later, model.parents[1] / "tiny")


def test_a_column_that_is_not_there_is_named(
    finished: tuple[ad.AnnData, ad.AnnData, Path],
) -> None:
    _, later, model = finished
    with pytest.raises(ValueError, match=r"batch_key 'lane' is no column .* there are: .*batch"):
        embed_later_cells(later, model, batch_key="lane", device="cpu")
