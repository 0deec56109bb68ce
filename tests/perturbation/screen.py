"""A small screen of made-up counts in the true format, with effects that are known."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

GENES = [
    "CD3D", "CD8A", "LYZ", "NKG7", "GNLY", "MS4A1", "CD79A", "FCGR3A", "STAT1", "IRF1",
    "ISG15", "IFI6", "MX1", "OAS1", "PSMB9", "B2M", "CD74", "CST3", "TYROBP", "S100A8",
]  # fmt: skip
"""Measured; of the perturbed genes STAT1 and IRF1 are among them."""
RESPONDING = {
    "IFNGR1": ("PSMB9", "ISG15", "STAT1"),
    "IFNGR2": ("PSMB9", "ISG15", "STAT1"),
    "JAK2": ("PSMB9", "ISG15", "STAT1"),
    "STAT1": ("PSMB9", "ISG15", "STAT1"),
    "SMAD4": ("LYZ", "CST3"),
    "CUL3": ("NKG7", "GNLY"),
}
"""Genes that fall to a fifth when a gene is perturbed."""


def make_screen(conditions: list[str] | None = None, *, n_cells: int = 60) -> ad.AnnData:
    """Cells of each condition in two batches, prepared as `prepare_dataset` leaves them."""
    rng = np.random.default_rng(0)
    conditions = conditions or ["ctrl", *(f"{gene}+ctrl" for gene in RESPONDING)]
    rates, obs = [], []
    base = rng.uniform(3, 12, len(GENES))
    for condition in conditions:
        rate = base.copy()
        for gene in condition.split("+"):
            for name in RESPONDING.get(gene, ()):
                rate[GENES.index(name)] *= 0.2
        for i in range(n_cells * (2 if condition == "ctrl" else 1)):
            batch = f"rep_{i % 2}"
            rates.append(rate * (1.3 if batch == "rep_1" else 1.0))
            obs.append({"condition": condition, "batch": batch, "label": "THP-1"})
    counts = rng.poisson(np.array(rates)).astype(np.float32)
    names = [f"cell_{i}" for i in range(len(obs))]
    return ad.AnnData(
        csr_matrix(counts), obs=pd.DataFrame(obs, index=names), var=pd.DataFrame(index=GENES)
    )
