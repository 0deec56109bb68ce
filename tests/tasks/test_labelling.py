"""Who learns from which cell, and how sure a label is."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scgpt_core.config import LabelSettings
from scgpt_core.data.sources import NO_CLASS
from scgpt_core.tasks.labelling import (
    Split,
    fit_temperature,
    label_query,
    nll,
    split_cells,
    temper,
)


@pytest.fixture
def adata() -> ad.AnnData:
    """Batches x and y with types a, b, c; z with a type of its own and cells of no known type."""
    labels = {"x": "a" * 40 + "b" * 20 + "c" * 2, "y": "a" * 20 + "b" * 20, "z": "abd?"}
    cells = [(batch, label) for batch, names in labels.items() for label in names]
    obs = pd.DataFrame(cells, columns=["batch", "label"]).replace({"label": {"?": "unknown"}})
    obs = obs.set_axis([f"cell{i}" for i in range(len(obs))]).astype("category")
    return ad.AnnData(csr_matrix((len(obs), 3), dtype=np.float32), obs=obs)


def split(adata: ad.AnnData, share: float = 1, seed: int = 0, query: str = "z") -> Split:
    return split_cells(adata, [query], heldout_share=0.1, label_share=share, seed=seed)


def test_every_labelled_cell_of_the_reference_is_learned_from_or_held_out(
    adata: ad.AnnData,
) -> None:
    found = split(adata)
    assert found.classes == ("a", "b", "c")
    reference = (adata.obs["batch"] != "z").to_numpy()
    assert ((found.train_N ^ found.heldout_N) == reference).all()
    np.testing.assert_array_equal(found.query_N, ~reference)
    assert found.class_N[found.query_N].tolist() == [0, 1, NO_CLASS, NO_CLASS]
    heldout = adata.obs["label"][found.heldout_N].value_counts()
    assert heldout[heldout > 0].to_dict() == {"a": 6, "b": 4}


def test_fewer_labels_are_among_more_and_leave_out_no_class(adata: ad.AnnData) -> None:
    used = {share: split(adata, share) for share in (0.1, 0.3, 1.0)}
    cells = {share: found.train_N | found.heldout_N for share, found in used.items()}
    assert (cells[0.1] <= cells[0.3]).all()
    assert (cells[0.3] <= cells[1.0]).all()
    counts = adata.obs["label"][cells[0.1]].value_counts()
    assert counts[counts > 0].to_dict() == {"a": 6, "b": 4, "c": 2}
    assert all(found.classes == ("a", "b", "c") for found in used.values())
    assert set(used[0.1].class_N[used[0.1].train_N]) == {0, 1, 2}


def test_the_split_is_drawn_by_cell_and_seed_whatever_the_order(adata: ad.AnnData) -> None:
    def names(adata: ad.AnnData, seed: int) -> set[str]:
        return set(adata.obs_names[split(adata, 0.3, seed).train_N])

    turned = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    assert names(adata, 0) == names(turned, 0)
    assert names(adata, 0) != names(adata, 1)


def test_user_mistakes_are_named(adata: ad.AnnData) -> None:
    with pytest.raises(ValueError, match=r"query batches w: the data set has x, y, z; look at"):
        split(adata, query="w")
    few = adata[(adata.obs["label"] == "a") | (adata.obs["batch"] == "z")].copy()
    with pytest.raises(ValueError, match="60 labelled cells of 1 labels: two labels are needed"):
        split(few)


def test_the_temperature_makes_probabilities_as_sure_as_they_are_right() -> None:
    rng = np.random.default_rng(0)
    logits_MC = 3 * rng.normal(size=(4000, 4))
    honest_MC = np.exp(logits_MC) / np.exp(logits_MC).sum(axis=1, keepdims=True)
    class_M = np.array([rng.choice(4, p=p) for p in honest_MC])
    too_sure_MC = temper(honest_MC, 0.5)
    temperature = fit_temperature(too_sure_MC, class_M)
    assert temperature == pytest.approx(2, rel=0.1)
    calibrated_MC = temper(too_sure_MC, temperature)
    np.testing.assert_allclose(calibrated_MC.sum(axis=1), 1)
    np.testing.assert_array_equal(calibrated_MC.argmax(axis=1), honest_MC.argmax(axis=1))
    assert nll(calibrated_MC, class_M) < nll(too_sure_MC, class_M)
    assert fit_temperature(too_sure_MC[:0], class_M[:0]) == 1


def test_a_query_is_labelled_from_every_share_of_the_labels(
    adata: ad.AnnData, tmp_path: Path
) -> None:
    def learn(split: Split, rows_M: np.ndarray) -> np.ndarray:
        """The share of each class among the training cells."""
        share_C = np.bincount(split.class_N[split.train_N], minlength=3) / split.train_N.sum()
        return np.tile(share_C, (len(rows_M), 1))

    settings = LabelSettings(low_data_shares=(0.3,), unknown_below=0.99)
    table, fits = label_query(adata, ["z"], settings, seed=0, learn=learn)
    assert [fit["label_share"] for fit in fits] == [0.3, 1.0]
    assert [fit["train_cells"] + fit["heldout_cells"] for fit in fits] == [18 + 12 + 2, 102]
    assert all(fit["heldout_loss_calibrated"] <= fit["heldout_loss"] + 1e-6 for fit in fits)
    assert table["label"].tolist() == ["a", "b", "d", "unknown"] * 2
    assert table["cell"].tolist() == adata.obs_names[-4:].tolist() * 2
    assert set(table["predicted"]) == {"a"}
    assert table["unknown"].all()
    probabilities = table.filter(like="probability: ")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(probabilities.max(axis=1), table["confidence"])


def test_nothing_follows_from_the_labels_of_the_query(adata: ad.AnnData) -> None:
    def learn(split: Split, rows_M: np.ndarray) -> np.ndarray:
        return np.random.default_rng(0).dirichlet(np.ones(3), len(rows_M))

    other = adata.copy()
    is_query = other.obs["batch"] == "z"
    other.obs["label"] = other.obs["label"].astype(str).mask(is_query, "c").astype("category")
    settings = LabelSettings(low_data_shares=())
    first, second = (
        label_query(cells, ["z"], settings, seed=0, learn=learn) for cells in (adata, other)
    )
    assert first.fits[0]["temperature"] == second.fits[0]["temperature"]
    pd.testing.assert_frame_equal(
        first.predictions.drop(columns="label"), second.predictions.drop(columns="label")
    )
