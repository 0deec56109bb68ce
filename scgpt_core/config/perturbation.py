"""Settings of perturbation prediction."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from scgpt_core.config.base import Count, Settings
from scgpt_core.config.training import FineTuningSettings


class PerturbationSplitSettings(Settings):
    """Which perturbations are predicted, from which others."""

    by: Literal["gene", "batch", "cell_type"] = "gene"
    """gene: each perturbed gene, and its combinations, is unseen in one fold; batch, cell_type: so
    are the perturbed cells of each of these groups."""
    n_folds: int = Field(default=5, ge=2)
    """Folds that genes are dealt into; each is a fit."""
    validation_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the conditions that are not tested which the early stop looks at; 0: none."""
    focus: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Genes by the name of their group, as those of one pathway: they are dealt to different folds
    as far as these go, so that others of the group are seen, and are scored apart too."""


class PerturbationSettings(FineTuningSettings):
    """Prediction of perturbed cells; the defaults are those of the published tutorial."""

    split: PerturbationSplitSettings = PerturbationSplitSettings()
    n_genes: Count = 5000
    """Measured genes that vary most (seurat_v3, per batch); they are learned, predicted and scored,
    and the perturbed ones with them."""
    gene_sets: Path = Path("resources/genesets/ReactomePathways.gmt.gz")
    """Gene sets (gmt) that some simple methods, and `gene_start: pathways`, know genes by."""
    control_cells: Count = 100
    """Control cells from each of which the cells of a condition are predicted."""
    pair_genes: Count = 4
    """Reverse: genes that rank highest alone, whose pairs are ranked too."""
    max_genes: Count = 1536
    """Genes in a training step, drawn for each; perturbed genes are never left out."""
    target: Literal["cells", "shift"] = "cells"
    """What a control cell is to become: a random perturbed cell of its batch, as published, or
    itself and the mean change of its batch, whose expectation is the same with far less noise."""
    target_value: Literal["kept", "zero", "highest"] = "kept"
    """Expression of a perturbed gene in the input: kept, as published; zero, for knock-out and
    interference; or the highest of all control cells, for activation."""
    affine: bool = True
    """Predict coefficient x input value + bias."""
    context: bool = False
    """Give the decoder of every gene the embeddings of the perturbed genes beside its own token, so
    that it need not find them by attention."""
    gene_start: Literal["inherited", "pathways"] = "inherited"
    """pathways: add to the gene embeddings where the genes of the data stand in `gene_sets`."""
    freeze_genes: bool = False
    """Leave the gene embeddings as they start, so that unseen genes stay comparable with seen."""
    epochs: Count = 15
    """Passes over the perturbed training cells, at most."""
    patience: Count = 10
    """Epochs without a better correlation of validation conditions before the fit stops."""
