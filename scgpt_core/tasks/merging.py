"""Several prepared data sets as one: studies to integrate, each of them a batch."""

import logging
from collections.abc import Mapping
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from scgpt_core import runs
from scgpt_core.data.genes import all_genes, match_var
from scgpt_core.keys import BATCH, CELL_TYPE, FEATURE_ID, LABEL, PANEL
from scgpt_core.tasks.datasets import SOURCE_SHA256
from scgpt_core.tasks.modalities import (
    Modalities,
    concat_modalities,
    read_modalities,
    write_modalities,
)

_LEAST_COMMON_GENES = 200
_SEPARATOR = "/"

logger = logging.getLogger(__name__)


def merge_datasets(parts: Mapping[str, str | Path], output: str | Path) -> None:
    """Write the cells of several prepared data sets as one, over the human genes that all have.

    A cell is called ``PART/NAME`` and is of the batch ``PART``, or ``PART/BATCH`` where the part
    has several. Its label is the harmonised one (`cell_type`), for parts name types differently.
    Of other modalities than RNA the cells have what their part has.

    Parameters
    ----------
    parts
        h5ad of `prepare_dataset`, by the name of the data set.
    output
        The h5ad file to write, in the same form.

    Raises
    ------
    ValueError
        Where the parts have too few genes in common.
    """
    read = {name: _read_part(name, path) for name, path in parts.items()}
    cells = {name: part for name, (part, _) in read.items()}
    merged = ad.concat(list(cells.values()), join="inner")
    if merged.n_vars < _LEAST_COMMON_GENES:
        sizes = ", ".join(f"{name} {part.n_vars}" for name, part in cells.items())
        message = (
            f"the parts have {merged.n_vars} human genes in common (known genes: {sizes});"
            f" {_LEAST_COMMON_GENES} are needed: leave out the part with the fewest"
        )
        raise ValueError(message)
    full = np.diff(merged.X.indptr) > 0
    if not full.all():
        logger.warning("%d cells have no count of the common genes: left out", np.sum(~full))
    merged = merged[full].copy()
    merged.obs = merged.obs.astype("category")
    merged.var[FEATURE_ID] = merged.var_names
    modalities = concat_modalities([modalities for _, modalities in read.values()])
    if modalities.by_name:
        write_modalities(merged, modalities.take(full))
    merged.uns[SOURCE_SHA256] = runs.digest({name: runs.sha256(p) for name, p in parts.items()})
    logger.info("%d cells x %d genes that all parts have", *merged.shape)
    with runs.whole(output) as temporary:
        merged.write_h5ad(temporary, **runs.COMPRESSION, convert_strings_to_categoricals=False)


def _read_part(name: str, path: str | Path) -> tuple[ad.AnnData, Modalities]:
    """Cells of one part, called after it, human genes by Ensembl id; what they have beside RNA."""
    part = ad.read_h5ad(path)
    human = all_genes()
    match = match_var(part.var, human)
    logger.info("%s: %s", name, match.report())
    obs = part.obs.astype(str)
    several = len(obs[BATCH].unique()) > 1
    obs[BATCH] = name + _SEPARATOR + obs[BATCH] if several else name
    obs[LABEL] = obs[CELL_TYPE]
    genes = [human.tokens[id_] for id_ in match.ids[match.matched]]
    cells = ad.AnnData(
        part.X[:, match.matched],
        obs=obs.set_axis(name + _SEPARATOR + obs.index).drop(columns=PANEL, errors="ignore"),
        var=pd.DataFrame(index=genes),
    )
    return cells, read_modalities(part)
