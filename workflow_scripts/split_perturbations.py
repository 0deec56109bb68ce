"""Deal the perturbations of a data set into folds."""

from collections.abc import Mapping
from typing import Any

import anndata as ad

from scgpt_core.config import PerturbationSplitSettings
from scgpt_core.perturbation.data import read_perturbations
from scgpt_core.perturbation.splits import make_split
from scgpt_core.runs import sha256, start_logging


def main(
    dataset: str, output: str, *, settings: Mapping[str, Any], n_genes: int, seed: str
) -> None:
    split = make_split(
        read_perturbations(ad.read_h5ad(dataset), n_genes=n_genes),
        PerturbationSplitSettings.model_validate(settings),
        dataset_sha256=sha256(dataset),
        seed=int(seed),
    )
    split.save(output)


start_logging(snakemake.log[0])
main(snakemake.input[0], snakemake.output[0], **snakemake.params)
