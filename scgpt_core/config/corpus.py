"""Settings of the census and shards stages."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from scgpt_core.config.base import Count, Settings, Share


class CensusSettings(Settings):
    """How cells are fetched."""

    partition_cells: Count = 50_000
    """Cells in one partition: one download job, one h5ad, one shard."""
    max_concurrent: Count = 8
    """Download jobs that run at once, at most (the hosted Census is a shared service)."""
    attempts: Count = 5
    """Tries of one read before a network fault fails the job; the wait doubles from one second."""
    tiledb: dict[str, str] = Field(default_factory=dict)
    """Options of TileDB, as `vfs.s3.proxy_host: proxy.example.org`."""


class QCSettings(Settings):
    """Which cells enter the corpus: of each cell its primary copy, and of those these."""

    min_genes: int = Field(default=200, ge=0)
    """Cells with fewer expressed genes are dropped."""
    max_genes: Count | None = None
    """Cells with more expressed genes are dropped; null: no limit."""
    min_counts: int = Field(default=0, ge=0)
    """Cells with fewer counts are dropped."""
    max_mito_share: Share | None = None
    """Cells with a greater share of mitochondrial counts are dropped; null: no limit."""
    assays: tuple[str, ...] | None = None
    """Assays to keep (names as in the Census); null: all."""
    full_length_assays: tuple[str, ...] = (
        "FL-cDNA", "FRISCR", "Fluidigm C1-based SMARTer library preparation", "G&T-Seq", "Hi-SCL",
        "MATQ-seq", "Quartz-seq", "SCOPE-chip", "SCRB-seq", "STORM-seq", "SUPeR-seq", "Smart-3Seq",
        "Smart-like", "Smart-seq", "Smart-seq v4", "Smart-seq2", "Smart-seq3", "TruSeq", "mCT-seq",
        "mcSCRB-seq", "scM&T-seq",
    )  # fmt: skip
    """Assays whose counts grow with gene length: divided by it, in units of its median. The default
    is the list of full-gene sequencing assays of the Census schema 2.4.0."""


class ShardSettings(Settings):
    """How the corpus is tokenized and split."""

    min_cells_per_gene: Count = 1
    """Genes in fewer of the fetched cells, before quality control, get no token (a published
    vocabulary is kept whole)."""
    published_vocab: Path | None = None
    """A published vocab.json to take instead of the corpus's own genes, to go on from its model."""
    heldout_by: Literal["donor_id", "dataset_id"] = "donor_id"
    """Held-out cells are whole donors or whole data sets, never cells alone."""
    heldout_share: Share = 0.1
    """Share of the cells to hold out, about: whole groups are taken until it is reached."""
