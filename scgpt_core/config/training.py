"""Settings of the loop that trains, in pretraining and in fine-tuning, and of pretraining."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from scgpt_core.config.base import Count, Settings, Share
from scgpt_core.config.model import Architecture


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
    """Matrix products; auto: bfloat16 on GPUs that multiply it in hardware, float32 on CPUs."""
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


class FineTuningSettings(Settings):
    """What every fine-tuning on a data set has; the tasks add their own and other defaults."""

    min_matched: Share = 0.5
    """Share of a data set's counts whose genes must be in the vocabulary, or the run stops."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout in fine-tuning; null: the model's own."""
    steps: Count | None = None
    """Optimiser steps, at most; null: `epochs` decides."""
    epochs: Count = 15
    """Passes over the training cells, at most, where `steps` is null."""
    patience: Count = 5
    """Epochs without a better held-out loss before the fit stops."""
    trainer: FineTuningTrainer = FineTuningTrainer()


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
    unknown_shares: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)
    ] = (0.25, 0.5, 0.75)
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
    """Held-out cells of one evaluation, about: they come in batches of up to 32."""
    trainer: TrainerSettings = TrainerSettings()
