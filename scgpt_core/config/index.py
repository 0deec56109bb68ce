"""Settings of the index, and of mapping onto it."""

from typing import Literal

from scgpt_core.config.base import Count, Name, Names, Settings, Share


class MappingSettings(Settings):
    """How labels go from reference cells to a query; a change of these builds no index anew."""

    neighbours: Count = 15
    """k of the label vote."""
    label_column: str = "cell_type"
    """obs column that is transferred."""
    frequency_correction: Share = 0.5
    """Votes are divided by the label's share of the reference to this power; 0: not at all."""
    calibrate_across: str | None = "dataset_id"
    """obs column: confidence and novelty are measured on neighbours of another one of these, as a
    query is of none of them; null: on all neighbours."""
    unknown_below: Share = 0.5
    """Queries whose winning label has less confidence are called unknown."""
    novelty_quantile: Share = 0.99
    """Queries farther away than this quantile of the reference's own neighbours are novel."""
    baseline_cells: Count = 20_000
    """Labelled reference cells that the baselines learn from, at most."""
    report_columns: tuple[str, ...] | None = None
    """obs columns of the neighbours that stand beside the predictions; null: of cell_type,
    tissue_general, disease and donor_id those that the reference has."""


class IndexSettings(Settings):
    """Reference index and mapping."""

    description: str = "auto"
    """faiss index description; auto: exact below 100,000 cells, IVF with fast-scan codes above."""
    nprobe: Count = 5
    """Lists visited by a query (IVF only)."""
    min_recall: Share = 0.3
    """recall@10 against exact search under which building fails."""
    sample_cells: Count = 10_000
    """Reference cells, drawn at random, that confidence and novelty are measured on, at most."""
    recall_queries: Count = 1000
    """How many of them are searched exactly to measure recall, at most."""
    reference: tuple[Name, ...] = ()
    """What data sets are mapped onto, rows of corpora.tsv or (your own, with labels) of
    datasets.tsv; empty: `corpus`."""
    combine: Literal["build", "update", "merge"] = "build"
    """How several become one reference. build: an index is trained on all of them; update: cells
    are added to the index of the first; merge: each gets an index with the lists and codes of the
    first, and these are merged."""
    queries: Names = ()
    """Data sets to map."""
    mapping: MappingSettings = MappingSettings()
