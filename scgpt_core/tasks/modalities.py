"""What is measured of cells beside their RNA: proteins and chromatin peaks, of some cells alone.

A prepared data set has the counts of each modality in obsm, and says by *panel* which features its
cells were measured for. What a cell was not measured for is missing, and not zero: batches may have
other proteins, or none.

Shapes: N cells, F features of a modality, K panels.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse, vstack

from scgpt_core.config import DatasetRow
from scgpt_core.data.qc import check_counts
from scgpt_core.keys import MODALITIES, PANEL, RNA

_STORED: Final = "modalities"
"""Key of uns: features and panels of each modality."""
_MEASURED: Final = "measured:"
"""Before a modality's name: obs column that says which cells of a MuData have it."""
_VENDOR_SUFFIX: Final = re.compile(r"[-_. ]Total(Seq)?[-_]?[A-D]?$")
_MOST_PANELS: Final = 100


class Modality(NamedTuple):
    """Counts of one modality."""

    counts_NF: csr_matrix
    """float32; nothing is stored where a feature was not measured."""
    features: tuple[str, ...]
    """As they stand in a vocabulary: ``protein:CD4``."""
    measured_KF: NDArray[np.bool_]
    """Which features the cells of a panel were measured for."""


class Modalities(NamedTuple):
    """All that was measured of the cells beside RNA."""

    by_name: dict[str, Modality]
    """In the order of `MODALITIES`."""
    panel_N: NDArray[np.int64]
    """Panel of each cell."""

    @property
    def features(self) -> tuple[str, ...]:
        """Features of all modalities, one behind the other."""
        return tuple(name for modality in self.by_name.values() for name in modality.features)

    def take(self, chosen_N: NDArray[np.bool_]) -> "Modalities":
        """Modalities of some of the cells."""
        by_name = {k: m._replace(counts_NF=m.counts_NF[chosen_N]) for k, m in self.by_name.items()}
        return Modalities(by_name, self.panel_N[chosen_N])

    def keep(self, features: Collection[str]) -> "Modalities":
        """Modalities of all cells with these of their features, in the order that they have."""
        by_name = {}
        for name, modality in self.by_name.items():
            columns = [i for i, feature in enumerate(modality.features) if feature in features]
            if columns:
                by_name[name] = Modality(
                    modality.counts_NF[:, columns],
                    tuple(modality.features[i] for i in columns),
                    modality.measured_KF[:, columns],
                )
        return self._replace(by_name=by_name)

    def measured(self, name: str) -> NDArray[np.bool_]:
        """(N, F), True where a cell was measured for a feature of a modality."""
        return self.by_name[name].measured_KF[self.panel_N]


def is_mudata(path: str | Path) -> bool:
    """Whether a file holds several AnnData (.h5mu)."""
    return h5py.is_hdf5(path) and "mod" in h5py.File(path, "r")


def read_mudata(path: str | Path, row: DatasetRow) -> ad.AnnData:
    """Cells with RNA of a MuData file, the other modalities of the row in obsm.

    Raises
    ------
    ValueError
        Where the file lacks a modality that the row names, or RNA.
    """
    with h5py.File(path, "r") as file:
        absent = sorted({RNA, *row.modalities.values()} - set(file["mod"]))
        if absent:
            message = (
                f"{row.dataset}: {row.path} has no modality {', '.join(absent)}; it has:"
                f" {', '.join(file['mod'])}"
            )
            raise ValueError(message)
        adata = read_elem(file[f"mod/{RNA}"])
        of_all = read_elem(file["obs"]).reindex(adata.obs_names)
        others = {name: read_elem(file[f"mod/{name}"]) for name in row.modalities.values()}
    for column in of_all.columns.difference(adata.obs.columns):
        adata.obs[column] = of_all[column]
    for name, other in others.items():
        row_N = other.obs_names.get_indexer(adata.obs_names)
        place = csr_matrix(
            (np.ones(np.sum(row_N >= 0)), (np.flatnonzero(row_N >= 0), row_N[row_N >= 0])),
            shape=(adata.n_obs, other.n_obs),
        )
        adata.obsm[name] = csr_matrix(place @ csr_matrix(other.X), dtype=np.float32)
        adata.uns[f"{name}_names"] = other.var_names.to_numpy(str)
        adata.obs[_MEASURED + name] = row_N >= 0
    return adata


def take_modalities(adata: ad.AnnData, row: DatasetRow) -> Modalities:
    """Modalities that a row names, from obsm: missing values are features not measured.

    Raises
    ------
    ValueError
        Where an entry of obsm or the names of its columns are missing, or values are no counts.
    """
    found = {}
    patterns = []
    for name in MODALITIES:
        if name not in row.modalities:
            continue
        values, features, measured_NF = _read_obsm(adata, name, row)
        check_counts(values, source=f"{row.dataset}, {name}")
        patterns.append(measured_NF)
        found[name] = (values, features, measured_NF)
    packed = np.packbits(np.hstack(patterns), axis=1)
    _, first, panel_N = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    if len(first) > _MOST_PANELS:
        message = (
            f"{row.dataset}: values are missing in {len(first)} different ways: a cell or batch is"
            " measured for a feature or not; give 0 where it was, and nothing was found"
        )
        raise ValueError(message)
    by_name = {}
    for name, (values, features, measured_NF) in found.items():
        measured_KF = np.broadcast_to(measured_NF[first], (len(first), len(features))).copy()
        by_name[name] = Modality(values, features, measured_KF)
    return Modalities(by_name, panel_N.ravel().astype(np.int64))


def _read_obsm(
    adata: ad.AnnData, name: str, row: DatasetRow
) -> tuple[csr_matrix, tuple[str, ...], NDArray[np.bool_]]:
    """Give counts of a modality, names of its features, and what is measured: (N, F), or (N, 1).

    A flag stands for all features of a cell where counts are sparse: there may be 100,000 peaks.
    """
    key = row.modalities[name]
    if key not in adata.obsm:
        there = ", ".join(adata.obsm) or "nothing"
        message = f"{row.dataset}: obsm has no {key!r} for {name}; it has: {there}"
        raise ValueError(message)
    values = adata.obsm[key]
    names: Any = getattr(values, "columns", None)
    for stored in (f"{key}_names", f"{name}_names"):
        names = adata.uns.get(stored) if names is None else names
    if names is None or len(names) != values.shape[1]:
        message = (
            f"{row.dataset}: names of the {values.shape[1]} features of obsm[{key!r}] are due: as"
            f" columns of a DataFrame, or in uns[{name + '_names'!r}]"
        )
        raise ValueError(message)
    features = tuple(f"{name}:{_VENDOR_SUFFIX.sub('', str(feature))}" for feature in names)
    if len(set(features)) < len(features):
        message = f"{row.dataset}: several features of {name} have one name: make them unique"
        raise ValueError(message)
    if issparse(values):
        flag = adata.obs.get(_MEASURED + key, pd.Series(data=True, index=adata.obs_names))
        return csr_matrix(values, dtype=np.float32), features, flag.to_numpy(bool)[:, None]
    dense_NF = np.asarray(values, np.float32)
    missing_NF = np.isnan(dense_NF)
    return csr_matrix(np.where(missing_NF, 0, dense_NF)), features, ~missing_NF


def write_modalities(adata: ad.AnnData, modalities: Modalities) -> None:
    """Put modalities into a prepared data set, from which `read_modalities` takes them."""
    adata.obs[PANEL] = pd.Categorical(modalities.panel_N.astype(str))
    adata.uns[_STORED] = {
        name: {"features": np.array(modality.features), "measured": modality.measured_KF}
        for name, modality in modalities.by_name.items()
    }
    for name, modality in modalities.by_name.items():
        adata.obsm[name] = modality.counts_NF


def read_modalities(adata: ad.AnnData) -> Modalities:
    """Modalities of a prepared data set; none of them where it has RNA alone."""
    stored: Mapping[str, Any] = adata.uns.get(_STORED, {})
    by_name = {
        name: Modality(
            csr_matrix(adata.obsm[name]),
            tuple(map(str, stored[name]["features"])),
            np.asarray(stored[name]["measured"], bool),
        )
        for name in MODALITIES
        if name in stored
    }
    panel_N = adata.obs[PANEL].astype(int).to_numpy() if by_name else np.zeros(adata.n_obs, int)
    return Modalities(by_name, panel_N.astype(np.int64))


def concat_modalities(parts: Collection[Modalities]) -> Modalities:
    """Modalities of the cells of several data sets, one behind the other, over all features."""
    by_name = {}
    firsts = np.cumsum([0, *(int(part.panel_N.max(initial=0)) + 1 for part in parts)])
    for name in MODALITIES:
        having = [part.by_name[name] for part in parts if name in part.by_name]
        if not having:
            continue
        features = sorted({feature for modality in having for feature in modality.features})
        measured_KF = np.zeros((firsts[-1], len(features)), bool)
        blocks = []
        for first, part in zip(firsts, parts, strict=False):
            if name not in part.by_name:
                blocks.append(csr_matrix((len(part.panel_N), len(features)), dtype=np.float32))
                continue
            modality = part.by_name[name]
            columns = np.searchsorted(features, modality.features)
            measured_KF[first : first + len(modality.measured_KF), columns] = modality.measured_KF
            ones = np.ones(len(columns), np.float32), (np.arange(len(columns)), columns)
            blocks.append(modality.counts_NF @ csr_matrix(ones, (len(columns), len(features))))
        by_name[name] = Modality(csr_matrix(vstack(blocks)), tuple(features), measured_KF)
    panels = [part.panel_N + first for first, part in zip(firsts, parts, strict=False)]
    return Modalities(by_name, np.concatenate(panels))
