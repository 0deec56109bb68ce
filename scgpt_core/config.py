"""Every setting of the pipeline, typed; the text under a field says what it means and its unit.

`config/config.yaml` and the four tables beside it are validated here, once, before any job starts.
A key that does not exist, a wrong type, or a name that is in no table is a ValueError that gives
the path of the key and the allowed values. This module never imports torch.
"""

import csv
import importlib.util
import logging
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
"""Stands in paths under `results/`: letters, digits, `_` and `-`."""
Task = Literal["integration", "annotation", "multiomics", "perturbation"]

logger = logging.getLogger(__name__)


class Settings(BaseModel):
    """Frozen, and closed to keys that do not exist."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


# ---------------------------------------------------------------------------------- census, shards


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
    """Which cells enter the corpus."""

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
    """Genes in fewer cells of the corpus get no token (a published vocabulary is kept whole)."""
    published_vocab: Path | None = None
    """A published vocab.json to take instead of the corpus's own genes, to go on from its model."""
    heldout_by: Literal["donor_id", "dataset_id"] = "donor_id"
    """Held-out cells are whole donors or whole data sets, never cells alone."""
    heldout_share: Share = 0.1
    """Share of the cells to hold out, about: whole groups are taken until it is reached."""


# ------------------------------------------------------------------------------------------ model


class Architecture(Settings):
    """Size of the Transformer; the defaults are those of the published checkpoints."""

    width: Count = 512
    """D, of every token."""
    n_layers: Count = 12
    """Transformer layers."""
    n_heads: Count = 8
    """Attention heads; must divide `width`."""
    ffn_width: Count = 512
    """Hidden width of the feed-forward blocks."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout of embeddings, attention and feed-forward in training."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.n_heads:
            message = f"width {self.width} is not a multiple of n_heads {self.n_heads}"
            raise ValueError(message)
        return self


class ModelConfig(Architecture):
    """One ScGPT: its size, its vocabulary, its variant; `config.json` of a model folder.

    Every variant of the published code is a combination of these fields.
    """

    n_tokens: Count
    """Size of the vocabulary, special tokens included."""
    pad_id: int = Field(ge=0)
    """Token id of `<pad>`."""
    cls_id: int = Field(ge=0)
    """Token id of `<cls>`."""
    n_bins: int = Field(default=51, ge=2)
    """Value bins, the zero bin included."""
    pad_value: int = -2
    """Value at padded positions."""
    mask_value: int = -1
    """Value at masked positions."""
    max_tokens: Count = 1200
    """Longest sequence in training, `<cls>` included."""
    value_style: Literal["continuous", "category", "scaling"] = "continuous"
    """How a value becomes a vector (published name: input_emb_style); "category" has a vector for
    each bin, and for `pad_value` and `mask_value` where these lie beyond the bins."""
    cell_style: Literal["cls", "avg-pool", "w-pool"] = "cls"
    """How tokens become the cell embedding (published name: cell_emb_style)."""
    gep: bool = True
    """Gene expression prediction from tokens (published name: MLM decoder)."""
    gepc: Literal["inner product", "concat query", "sum query"] | None = "inner product"
    """Gene expression prediction from the cell embedding (published name: MVC); null: off."""
    explicit_zero_prob: bool = False
    """GEP and GEPC also predict the probability that a value is not zero."""
    n_classes: Count | None = None
    """Cell types of the CLS head; null: no head."""
    n_class_layers: Count = 3
    """Layers of the CLS head (published name: n_layers_cls)."""
    n_batches: Count | None = None
    """Sequencing batches known to the model; null: none."""
    batch_labels: bool = False
    """Give GEP and GEPC an embedding of the batch (published name: use_batch_labels)."""
    dar: bool = False
    """Domain adaptation by reverse back-propagation (published name: DAB)."""
    batch_norm: Literal["domain", "plain"] | None = None
    """Batch norm on the summed embeddings: one per sequencing batch (DSBN), or one; null: none."""
    n_modalities: Count | None = None
    """Modality tokens of a multi-omic model; null: none."""
    conditions: tuple[str, ...] = ()
    """Conditions that the model can be told of a cell, as tissues or assays, numbered from 1."""
    perturbation_flags: Count | None = None
    """Entries of the perturbation flag embedding (3 in published models); null: none."""
    perturbation_context: bool = False
    """Give GEP what the perturbed genes are, as `batch_labels` gives it the batch."""
    affine_gep: bool = False
    """Perturbation decoder: coefficient x input value + bias."""
    gep_activation: (
        Literal["ELU", "GELU", "LeakyReLU", "ReLU", "Sigmoid", "Softplus", "Tanh"] | None
    ) = None
    """Activation of the affine decoder's coefficient and bias, by its torch name; null: none."""
    gep_adaptive_bias: bool = False
    """Scale the affine decoder's bias by the cell's mean non-zero value."""

    @model_validator(mode="after")
    def _variants_are_whole(self) -> Self:
        if (
            self.dar or self.batch_labels or self.batch_norm == "domain"
        ) and self.n_batches is None:
            message = "dar, batch_labels and batch_norm: domain need n_batches"
            raise ValueError(message)
        beside_cells = self.batch_labels or self.n_modalities or self.explicit_zero_prob
        if self.gepc in ("concat query", "sum query") and beside_cells:
            message = (
                f"gepc: {self.gepc} knows no batch_labels, n_modalities or explicit_zero_prob: "
                "choose inner product"
            )
            raise ValueError(message)
        if self.perturbation_context and (self.perturbation_flags is None or self.gepc):
            message = "perturbation_context needs perturbation_flags, and gepc: null"
            raise ValueError(message)
        if (self.gep_activation or self.gep_adaptive_bias) and not self.affine_gep:
            message = "gep_activation and gep_adaptive_bias belong to affine_gep"
            raise ValueError(message)
        if self.affine_gep and not self.gep:
            message = "affine_gep is a kind of gep, which is off"
            raise ValueError(message)
        if self.value_style == "category" and self.pad_value < 0:
            message = f"value_style: category needs a pad_value of 0 or more, not {self.pad_value}"
            raise ValueError(message)
        return self


# --------------------------------------------------------------------------------------- training


class TrainerSettings(Settings):
    """The loop that pretraining and every fine-tuning share."""

    batch_cells: Count = 64
    """Cells in one optimiser step, over all devices and accumulation steps."""
    micro_batch_cells: Count | None = None
    """Cells in one forward pass on one device; null: found from memory on GPUs, 32 on CPUs."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW weight decay."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant", "exponential"] = "cosine"
    """Course of the learning rate after the warm-up; exponential: times `decay` each epoch."""
    decay: float = Field(default=0.9, gt=0, le=1)
    """Factor a epoch of the exponential schedule."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Greatest gradient norm; null: no clipping."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Matrix products; auto: bfloat16 where the device multiplies it in hardware."""
    attention: Literal["auto", "plain", "sdpa", "flex", "flash"] = "auto"
    """Attention backend."""
    compile: bool = False
    """torch.compile the layers."""
    activation_checkpointing: bool = False
    """Recompute layers in the backward pass: less memory, a third more work."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes share the work."""
    checkpoint_minutes: float = Field(default=10, gt=0)
    """Minutes between checkpoints."""
    keep_checkpoints: Count = 2
    """Checkpoints kept, the newest."""
    log_steps: Count = 10
    """Steps between lines of progress."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where metrics go beside `metrics.jsonl`; wandb needs its package and an account."""
    time_budget_minutes: float | None = Field(default=None, gt=0)
    """Minutes after which a run saves and stops, unfinished; null: none but a Slurm job's limit."""
    time_margin_minutes: float = Field(default=5, gt=0)
    """Minutes before the time limit of its Slurm job at which a run saves, stops, and is submitted
    again to go on; longer than a step and a checkpoint take."""
    nodes: Count = 1
    """Machines that train together; more than one need Slurm."""
    processes: Count = 1
    """Processes on each of them: its GPUs, where `device` is cuda."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one. "cuda" without a GPU is an error, never a silent CPU run."""


CorpusColumn = Literal["dataset_id", "tissue_general", "cell_type", "assay"]
"""Columns of obs that the shards of a corpus keep."""


class PretrainSettings(Settings):
    """Generative pretraining, as in the paper."""

    architecture: Architecture = Architecture()
    max_tokens: Count = 1200
    """Longest sequence, `<cls>` included; genes beyond it are left out at random."""
    gene_start: Literal["random", "coexpression"] = "random"
    """Where a new model's gene embeddings start: random, as published, or with what principal
    components of the corpus say of each gene."""
    n_bins: int = Field(default=51, ge=2)
    """Value bins."""
    unknown_shares: tuple[Share, ...] = (0.25, 0.5, 0.75)
    """Shares of unknown genes; one is drawn for each cell."""
    cell_prompt_after: Share = 0.1
    """Share of the steps after which the cell-prompted second pass joins the loss."""
    steps: Count | None = None
    """Optimiser steps; null: `epochs` decides."""
    epochs: Count = 6
    """Passes over the corpus, where `steps` is null."""
    condition_by: CorpusColumn | None = None
    """What the model is told of a cell beside its expression, as the paper's condition tokens: a
    vector for each value of the column is added to all tokens of the cell; null: nothing."""
    condition_dropout: Share = 0.1
    """Share of the visits at which it is not told, so that the model can do without."""
    balance_by: CorpusColumn | None = None
    """Groups of cells to visit more evenly than they occur; null: each cell once an epoch."""
    balance_strength: Share = 0.5
    """How evenly: 1: all groups equally often; 0.5: as the square root of their sizes."""
    evaluate_steps: Count = 200
    """Steps between evaluations on held-out cells."""
    evaluate_cells: Count = 2000
    """Held-out cells of one evaluation, at most."""
    trainer: TrainerSettings = TrainerSettings()


# ------------------------------------------------------------------------------------------ tasks


class EmbedSettings(Settings):
    """Zero-shot embedding."""

    max_tokens: Count = 1200
    """Longest sequence; longer cells are sampled, the same genes on every run."""
    batch_size: Count = 64
    """Cells in one forward pass."""
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """Matrix products; auto: bfloat16 where the device multiplies it in hardware, else float32.
    int8: on CPUs with AVX2 faster than float32, and less exact: never chosen by itself."""
    min_matched: Share = 0.5
    """Share of a data set's counts whose genes must be in the vocabulary, or the run stops."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one. "cuda" without a GPU is an error, never a silent CPU run."""


class FineTuningTrainer(TrainerSettings):
    """The loop as fine-tuning sets it, by default as published."""

    micro_batch_cells: Count | None = 64
    """As in `TrainerSettings`. ECS compares the cells of a micro-batch, and batch norm takes their
    statistics: smaller ones change what is learned."""
    schedule: Literal["cosine", "constant", "exponential"] = "exponential"
    """As in `TrainerSettings`."""
    tune: Literal["all", "frozen", "lora"] = "all"
    """What is trained. frozen: all but the Transformer's layers; lora: of these, changes of low
    rank, which are added to their weights in the end."""
    lora_rank: Count = 8
    """Rank of these changes."""
    lora_alpha: float = Field(default=16, gt=0)
    """They are multiplied by it over the rank."""

    @model_validator(mode="after")
    def _lora_is_whole(self) -> Self:
        if self.tune == "lora" and self.parallel == "fsdp":
            message = "tune: lora does not work with parallel: fsdp: take ddp, it needs less memory"
            raise ValueError(message)
        return self


class IntegrationSettings(Settings):
    """Fine-tuning for batch integration; the defaults are those of the published tutorial."""

    n_genes: Count = 1200
    """Highly variable genes (seurat_v3, per batch); each is a token of every cell, zeros kept."""
    min_matched: Share = 0.5
    """Share of a data set's counts whose genes must be in the vocabulary, or the run stops."""
    mask_share: Share = 0.4
    """Share of the values that are masked."""
    gepc: bool = True
    """Add the GEPC objective."""
    explicit_zero_prob: bool = True
    """Predict zeros apart."""
    ecs_threshold: Share = 0.8
    """Cosine from which pairs of cells are drawn nearer, and below which apart."""
    ecs_weight: float = Field(default=10, ge=0)
    """Weight of ECS in the loss; 0: no ECS."""
    dar_weight: float = Field(default=1, ge=0)
    """Weight of DAR in the loss; 0: no DAR."""
    domain_batch_norm: bool = True
    """Domain-specific batch norm."""
    inherit: Literal["all", "genes"] = "all"
    """What a fit takes from a model folder: all weights that fit, or the gene embedding alone."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout in fine-tuning; null: the model's own."""
    epochs: Count = 15
    """Passes over the training cells, at most."""
    patience: Count = 5
    """Epochs without a better held-out loss before the fit stops."""
    heldout_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the cells of each batch that the early stop looks at; 0: no early stop."""
    trainer: FineTuningTrainer = FineTuningTrainer()


class LabelSettings(Settings):
    """How labels go from reference cells to a query, whatever method learns them."""

    heldout_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the reference cells of each label that nothing is learned from: early stops look at
    them, and the temperature of the probabilities is fitted to them."""
    low_data_shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.1, 0.3)
    """Shares of the reference's labels that are learned from too, beside all of them."""
    unknown_below: Share = 0.5
    """Cells whose most probable label has less probability are called unknown."""


class AnnotationTrainer(FineTuningTrainer):
    """The loop as annotation sets it."""

    schedule: Literal["cosine", "constant", "exponential"] = "cosine"
    """As in `TrainerSettings`. Not by epochs, of which there are ten times as many where a tenth of
    the labels is learned from."""


class AnnotationSettings(Settings):
    """Fine-tuning for annotation; the defaults are those of the published tutorial."""

    labels: LabelSettings = LabelSettings()
    n_genes: Count | None = None
    """Highly variable genes of the reference (seurat_v3, per batch) that are tokens where a cell
    has them; null: all genes."""
    max_tokens: Count = 3001
    """Longest sequence, `<cls>` included; longer cells are sampled, in training anew each epoch."""
    min_matched: Share = 0.5
    """Share of a data set's counts whose genes must be in the vocabulary, or the run stops."""
    class_weights: bool = True
    """Let all classes count alike in the loss, however many cells they have."""
    mask_share: Share = 0
    """Share of the values that are masked in training, against over-fitting."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout in fine-tuning; null: the model's own."""
    epochs: Count = 10
    """Passes over the training cells, at most; where labels are few, as many steps as with all."""
    patience: Count = 5
    """Epochs without a better held-out loss before the fit stops."""
    trainer: AnnotationTrainer = AnnotationTrainer()


class ModalitySettings(Settings):
    """What is measured beside RNA, and what of it is withheld from every method."""

    n_peaks: Count = 1000
    """Chromatin peaks that vary most; the others are left out."""
    withheld_share: float = Field(default=0.2, ge=0, lt=1)
    """Share of the cells whose other modalities are imputed and compared with the truth, where a
    data set names no `query` batches for it; 0: none."""


class MultiomicsTrainer(FineTuningTrainer):
    """The loop as the published tutorial of CITE-seq sets it."""

    batch_cells: Count = 16
    """As in `TrainerSettings`."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """As in `TrainerSettings`."""
    decay: float = Field(default=0.95, gt=0, le=1)
    """As in `TrainerSettings`."""


class MultiomicsSettings(Settings):
    """Fine-tuning on several modalities; the defaults are those of the published tutorial."""

    modalities: ModalitySettings = ModalitySettings()
    n_genes: Count = 1200
    """Highly variable genes (seurat_v3, per batch), beside all proteins and the chosen peaks: each
    is a token of every cell that was measured for it, zeros kept."""
    min_matched: Share = 0.5
    """Share of a data set's counts whose genes must be in the vocabulary, or the run stops."""
    mask_share: Share = 0.4
    """Share of the values that are masked."""
    hidden_share: Share = 0.5
    """Share of the cells of which one modality beside RNA is masked whole, another epoch others: so
    that it can be imputed where it is missing. Not of the tutorial, which imputes nothing."""
    gepc: bool = True
    """Add the GEPC objective."""
    dar_weight: float = Field(default=1, ge=0)
    """Weight of DAR in the loss, where there are batches; 0: no DAR."""
    inherit: Literal["all", "genes"] = "genes"
    """What a fit takes from a model folder: all weights that fit, or the gene embedding alone."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout in fine-tuning; null: the model's own."""
    epochs: Count = 25
    """Passes over the training cells, at most."""
    patience: Count = 5
    """Epochs without a better held-out loss before the fit stops."""
    heldout_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the cells of each batch that the early stop looks at; 0: no early stop."""
    trainer: MultiomicsTrainer = MultiomicsTrainer()


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


class PerturbationSettings(Settings):
    """Prediction of perturbed cells; the defaults are those of the published tutorial."""

    split: PerturbationSplitSettings = PerturbationSplitSettings()
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
    min_matched: Share = 0.5
    """Share of a data set's counts whose genes must be in the vocabulary, or the run stops."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout in fine-tuning; null: the model's own."""
    steps: Count | None = None
    """Optimiser steps; null: `epochs` decides."""
    epochs: Count = 15
    """Passes over the perturbed training cells, at most."""
    patience: Count = 10
    """Epochs without a better correlation of validation conditions before the fit stops."""
    trainer: FineTuningTrainer = FineTuningTrainer()


class GenerationSettings(Settings):
    """Generation of cells' profiles, and how they compare with true ones."""

    datasets: tuple[Name, ...] = ()
    """Data sets with cell types whose cells are generated."""
    known_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of a cell's genes that the gene prompt gives."""
    rounds: tuple[Count, ...] = (1, 5)
    """Numbers of rounds to try; in each, the surest genes become known to the next."""
    max_tokens: Count = 1200
    """Longest sequence; genes of longer cells are sampled."""
    max_cells: Count = 500
    """Cells of a data set that are generated, at most: no more than half of those of a type."""
    reference_cells: Count = 2000
    """Other cells that simple predictors learn from and mixing is measured among, at most."""
    batch_size: Count = 16
    """Cells in one forward pass."""
    min_matched: Share = 0.5
    """Share of a data set's counts whose genes must be in the vocabulary, or the run stops."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one. "cuda" without a GPU is an error, never a silent CPU run."""


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


# ------------------------------------------------------------------------------ index, benchmark


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
    nprobe: Count = 8
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
    queries: tuple[Name, ...] = ()
    """Data sets to map."""
    mapping: MappingSettings = MappingSettings()


class BenchmarkSettings(Settings):
    """Which methods are scored on which data sets."""

    integration: tuple[Name, ...] = ()
    """Data sets of the integration benchmark."""
    annotation: tuple[Name, ...] = ()
    """Data sets of the annotation benchmark; their rows say which batches are the `query`."""
    multiomics: tuple[Name, ...] = ()
    """Data sets of the multi-omics benchmark: their rows have `modalities`, and the batches of
    `query`, if any, are given RNA alone."""
    perturbation: tuple[Name, ...] = ()
    """Data sets of the perturbation benchmark; their rows keep the conditions (`obs_columns`)."""
    methods: tuple[Name, ...] = ()
    """Methods, rows of methods.tsv; each runs on the data sets of its task."""
    seeds: tuple[int, ...] = (0,)
    """Each method runs once with each."""


class Config(Settings):
    """`config/config.yaml`."""

    seed: int = 0
    """Of everything that is drawn."""
    corpora: Path
    """Table of corpora, relative to the repository (or absolute)."""
    models: Path
    """Table of models."""
    datasets: Path
    """Table of data sets."""
    methods: Path
    """Table of methods."""
    expected: Path | None = None
    """Table of published values, which the report shows beside those of the run; null: none."""
    corpus: Name
    """The corpus to build, a row of `corpora`."""
    model: Name
    """The model to train or import and to use, a row of `models`."""
    checkpoints: dict[Name, Path] = Field(default_factory=dict)
    """Published checkpoint folders that you have, by model: imported, not trained."""
    census: CensusSettings = CensusSettings()
    qc: QCSettings = QCSettings()
    qc_by_corpus: dict[Name, QCSettings] = Field(default_factory=dict)
    """Where corpora differ from `qc`, by corpus."""
    shards: ShardSettings = ShardSettings()
    pretrain: PretrainSettings = PretrainSettings()
    embed: EmbedSettings = EmbedSettings()
    integration: IntegrationSettings = IntegrationSettings()
    annotation: AnnotationSettings = AnnotationSettings()
    multiomics: MultiomicsSettings = MultiomicsSettings()
    perturbation: PerturbationSettings = PerturbationSettings()
    generation: GenerationSettings = GenerationSettings()
    networks: NetworkSettings = NetworkSettings()
    index: IndexSettings = IndexSettings()
    benchmark: BenchmarkSettings = BenchmarkSettings()

    def qc_of(self, corpus: str) -> QCSettings:
        """Thresholds of a corpus: `qc`, but for what `qc_by_corpus` says of it."""
        own = self.qc_by_corpus.get(corpus, QCSettings())
        return self.qc.model_copy(update=own.model_dump(exclude_unset=True))


# ----------------------------------------------------------------------------------------- tables


def _split(names: object) -> object:
    """Names of a table's cell, which blanks separate; one that has blanks itself is quoted."""
    return tuple(shlex.split(names)) if isinstance(names, str) else names


def _split_pairs(pairs: object) -> object:
    """Pairs `NAME=VALUE` of a table's cell, which blanks separate."""
    if not isinstance(pairs, str):
        return pairs
    split = [pair.partition("=") for pair in shlex.split(pairs)]
    return {name: value for name, _, value in split}


def _check_modalities(places: Mapping[str, str]) -> Mapping[str, str]:
    unknown = sorted(places.keys() - {"protein", "atac"})
    if unknown or not all(places.values()):
        message = f"{', '.join(unknown) or 'a place is empty'}: give protein=KEY, atac=KEY or both"
        raise ValueError(message)
    return places


class CorpusRow(Settings):
    """A row of corpora.tsv."""

    corpus: Name
    census: str
    """A Census release (a date, "stable", "latest"), the path of a local SOMA collection, or a
    table (.tsv) of h5ad files, of which a local Census is made."""
    organism: str
    """As the Census spells it: homo_sapiens."""
    obs_value_filter: str
    """Which cells, in the Census's filter language."""
    description: str = ""


class SourceRow(Settings):
    """A row of a table of h5ad files that make a local Census, as resources/demo_census.tsv.

    What describes the cells is the same for all of them, or ``obs:NAME``: as column NAME says.
    """

    dataset_id: Name
    """Of the data set in the Census; rows of one data set may be several."""
    path: str
    """h5ad with raw counts, relative to the repository or absolute."""
    layer: str | None = None
    """Where the raw counts are: a layer, or "raw" for ``adata.raw``; empty: X."""
    cells: str | None = None
    """pandas query on obs that keeps cells; empty: all."""
    primary: str | None = None
    """pandas query on obs: the cells whose primary copy this is (`is_primary_data`); empty: all."""
    assay: str
    """As the Census spells it."""
    donor_id: str
    """Donor; unique in its data set."""
    suspension_type: str
    """cell, nucleus or na."""
    tissue_general: str
    """As the Census spells it."""
    disease: str
    """As the Census spells it; normal for healthy donors."""
    cell_type: str = "unknown"
    """Label by an expert; harmonised by resources/cell_types.tsv."""
    title: str = ""
    """Of the data set."""
    citation: str = ""
    """Of the data set."""


class ModelRow(Settings):
    """A row of models.tsv."""

    model: Name
    corpus: Name
    """The corpus that it is trained on."""
    init_from: Name | None = None
    """The model whose weights training starts from (continual pretraining)."""
    description: str = ""


class DatasetRow(Settings):
    """A row of datasets.tsv: a file of cells, or other rows of the table merged."""

    dataset: Name
    path: str | None = None
    """h5ad, relative to the repository or absolute, or a URL."""
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Of the file; needed for a URL."""
    layer: str | None = None
    """Where the raw counts are: a layer, or "raw" for ``adata.raw``; empty: X."""
    batch_key: str | None = None
    """obs column of the batch; empty: all cells are of one."""
    label_key: str | None = None
    """obs column of the cell type; empty: all are unknown."""
    obs_filter: str | None = None
    """pandas query on obs that keeps cells, as `demuxlet_cls == "SNG"`."""
    modalities: Annotated[
        Mapping[str, str], BeforeValidator(_split_pairs), AfterValidator(_check_modalities)
    ] = Field(default_factory=dict)
    """What is measured beside RNA and where, as `protein=KEY`: a key of obsm, whose features are
    named by its columns or in uns["protein_names"], or the name of a modality of an .h5mu."""
    obs_columns: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    """More obs columns to keep, text: of a reference, or the conditions of a screen."""
    parts: Annotated[tuple[Name, ...], BeforeValidator(_split)] = ()
    """Instead of a path: rows whose cells are merged over their common genes, each a batch."""
    query: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    """Batches that annotation gives labels to, as learned from the cells of the others; and whose
    other modalities are imputed from RNA."""
    source: str = ""
    """Page where the file is to be had by hand, where `path` is not one that can be downloaded."""
    description: str = ""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.path is None) == (not self.parts):
            message = f"data set {self.dataset} needs a path or parts, and not both"
            raise ValueError(message)
        return self


class MethodRow(Settings):
    """A row of methods.tsv."""

    method: Name
    task: Task
    """What it is a method of."""
    rule: Literal["baseline", "embed", "finetune", "score"]
    """The rule that runs it; score: it is scored from the data alone."""
    init: Literal["pretrained", "random"] | None = None
    """Weights that a model starts from (embed and finetune)."""
    uses_labels: bool = False
    """Whether it sees the cell types that it is scored on."""
    requires: str | None = None
    """Package that it imports beyond the core lock; where it is not installed, `leave_out_missing`
    leaves the method out."""
    title: str
    """Its name in plots and tables."""


class ExpectedRow(Settings):
    """A row of expected.tsv: a value that somebody published, to stand beside ours."""

    task: Task
    dataset: Name
    """A row of datasets.tsv."""
    method: Name
    """The row of methods.tsv that it is to be compared with."""
    metric: Literal["avg_bio", "avg_batch", "overall", "accuracy", "macro_f1"]
    value: float
    source: str
    """Where it was published."""


class Tables(Settings):
    """The four tables, by name, and published values."""

    corpora: dict[str, CorpusRow]
    models: dict[str, ModelRow]
    datasets: dict[str, DatasetRow]
    methods: dict[str, MethodRow]
    expected: tuple[ExpectedRow, ...] = ()


Row = TypeVar("Row", bound=Settings)


def read_table(path: Path, row: type[Row]) -> dict[str, Row]:
    """Rows of a tab-separated table by the value of their first column, see `read_rows`.

    Raises
    ------
    ValueError
        As `read_rows`, and where a name stands twice.
    """
    rows: dict[str, Row] = {}
    for line, parsed in read_rows(path, row):
        name = str(next(iter(parsed.model_dump().values())))
        if name in rows:
            message = f"{path}, line {line}: {name!r} stands there twice"
            raise ValueError(message)
        rows[name] = parsed
    return rows


def read_rows(path: Path, row: type[Row]) -> list[tuple[int, Row]]:
    """Rows of a tab-separated table with the numbers of their lines; empty cells are left out.

    Raises
    ------
    ValueError
        With file, line and column, where a row does not fit.
    """
    if not path.is_file():
        message = f"table {path} does not exist"
        raise ValueError(message)
    rows = []
    with path.open(newline="") as file:
        for line, record in enumerate(csv.DictReader(file, delimiter="\t"), start=2):
            if None in record or None in record.values():
                message = f"{path}, line {line}: not as many columns as the header has"
                raise ValueError(message)
            filled = {key: value for key, value in record.items() if value}
            try:
                parsed = row.model_validate(filled)
            except ValidationError as error:
                message = f"{path}, line {line}: {_explain(error)}"
                raise ValueError(message) from None
            rows.append((line, parsed))
    return rows


def load_config(config: Mapping[str, Any], root: Path) -> tuple[Config, Tables]:
    """Validate a config mapping and the tables that it names.

    Parameters
    ----------
    config
        As read from YAML.
    root
        Folder that relative paths of tables start from.

    Raises
    ------
    ValueError
        That names the key's path, what was found there and what is allowed.
    """
    try:
        cfg = Config.model_validate(dict(config))
    except ValidationError as error:
        message = f"config: {_explain(error)}"
        raise ValueError(message) from None
    tables = Tables(
        corpora=read_table(root / cfg.corpora, CorpusRow),
        models=read_table(root / cfg.models, ModelRow),
        datasets=read_table(root / cfg.datasets, DatasetRow),
        methods=read_table(root / cfg.methods, MethodRow),
        expected=tuple(row for _, row in read_rows(root / cfg.expected, ExpectedRow))
        if cfg.expected
        else (),
    )
    for key, found, allowed in (
        ("corpus", [cfg.corpus], tables.corpora),
        ("qc_by_corpus", cfg.qc_by_corpus, tables.corpora),
        ("model", [cfg.model], tables.models),
        ("checkpoints", cfg.checkpoints, tables.models),
        (
            f"{cfg.datasets}: parts",
            [part for row in tables.datasets.values() for part in row.parts],
            tables.datasets,
        ),
        ("index.reference", cfg.index.reference, {**tables.corpora, **tables.datasets}),
        ("generation.datasets", cfg.generation.datasets, tables.datasets),
        ("networks.datasets", cfg.networks.datasets, tables.datasets),
        ("index.queries", cfg.index.queries, tables.datasets),
        ("benchmark.integration", cfg.benchmark.integration, tables.datasets),
        ("benchmark.annotation", cfg.benchmark.annotation, tables.datasets),
        ("benchmark.multiomics", cfg.benchmark.multiomics, tables.datasets),
        ("benchmark.perturbation", cfg.benchmark.perturbation, tables.datasets),
        ("benchmark.methods", cfg.benchmark.methods, tables.methods),
        (f"{cfg.expected}: dataset", [row.dataset for row in tables.expected], tables.datasets),
        (f"{cfg.expected}: method", [row.method for row in tables.expected], tables.methods),
        (f"{cfg.models}: corpus", [m.corpus for m in tables.models.values()], tables.corpora),
        (
            f"{cfg.models}: init_from",
            [m.init_from for m in tables.models.values() if m.init_from],
            tables.models,
        ),
    ):
        _check_names(key, found, allowed)
    twice = sorted({*cfg.index.reference} & {*tables.corpora} & {*tables.datasets})
    if twice:
        message = (
            f"config: index.reference: {', '.join(twice)} is both in {cfg.corpora} and in "
            f"{cfg.datasets}: rename one"
        )
        raise ValueError(message)
    for name in cfg.benchmark.annotation:
        if not tables.datasets[name].query:
            message = (
                f"config: benchmark.annotation: {cfg.datasets} names no query batches of {name}"
            )
            raise ValueError(message)
    _check_fetched(cfg, tables, root)
    for name in cfg.benchmark.multiomics:
        row = tables.datasets[name]
        if not any(tables.datasets[part].modalities for part in (name, *row.parts)):
            message = f"config: benchmark.multiomics: {cfg.datasets} names no modalities of {name}"
            raise ValueError(message)
    return cfg, tables


def leave_out_missing(cfg: Config, tables: Tables) -> Config:
    """Leave out of the benchmark the methods whose packages are not installed, and say so."""
    kept = []
    for name in cfg.benchmark.methods:
        package = tables.methods[name].requires
        if package and importlib.util.find_spec(package) is None:
            logger.warning(
                "benchmark.methods: %s is left out: it needs the package %s, which is not"
                " installed here (pip install -e .[baselines], or snakemake --sdm conda)",
                name,
                package,
            )
        else:
            kept.append(name)
    benchmark = cfg.benchmark.model_copy(update={"methods": tuple(kept)})
    return cfg.model_copy(update={"benchmark": benchmark})


def _check_fetched(cfg: Config, tables: Tables, root: Path) -> None:
    """Stop where files of data sets of the benchmark are to be fetched by hand, and were not."""
    names = {*cfg.benchmark.integration, *cfg.benchmark.annotation, *cfg.benchmark.multiomics}
    parts = {part for name in names for part in tables.datasets[name].parts or (name,)}
    rows = [tables.datasets[part] for part in sorted(parts)]
    absent = [row for row in rows if row.source and row.path and not (root / row.path).exists()]
    if absent:
        said = "; ".join(f"{row.dataset}: get {row.path} from {row.source}" for row in absent)
        message = f"config: {cfg.datasets}: {said}"
        raise ValueError(message)


def _check_names(key: str, found: Iterable[str], allowed: Iterable[str]) -> None:
    unknown = sorted(set(found) - set(allowed))
    if unknown:
        message = (
            f"config: {key}: {', '.join(unknown)} is in no row of its table; "
            f"allowed: {', '.join(sorted(allowed))}"
        )
        raise ValueError(message)


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        path = ".".join(map(str, problem["loc"]))
        found = "" if problem["type"] == "missing" else f" (found {problem['input']!r})"
        said = "no such key" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"{path}: {said}{found}")
    return "; ".join(lines)
