"""Settings of embedding, integration, annotation, multi-omics and generation."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from scgpt_core.config.base import Count, Names, Settings, Share
from scgpt_core.config.training import FineTuningSettings, FineTuningTrainer


class EmbedSettings(Settings):
    """Zero-shot embedding."""

    max_tokens: Count = 1200
    """Longest sequence; longer cells are sampled, the same genes on every run."""
    max_counts: Count | None = None
    """Cells with more counts are sampled down to about so many: depth, in which studies differ,
    moves an embedding more than types do. null: none is, as published."""
    batch_size: Count = 64
    """Cells in one forward pass."""
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """Matrix products; auto: bfloat16 on GPUs, and on CPUs that multiply it in hardware where the
    model is at least 512 wide, else float32. int8: on CPUs with AVX2 faster than both, and less
    exact: never chosen by itself."""
    min_matched: Share = 0.5
    """Share of a data set's counts whose genes must be in the vocabulary, or the run stops."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one. "cuda" without a GPU is an error, never a silent CPU run."""


class IntegrationSettings(FineTuningSettings):
    """Fine-tuning for batch integration; the defaults are those of the published tutorial."""

    n_genes: Count = 1200
    """Highly variable genes (seurat_v3, per batch); each is a token of every cell, zeros kept."""
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
    heldout_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the cells of each batch that the early stop looks at; 0: no early stop."""


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


class AnnotationSettings(FineTuningSettings):
    """Fine-tuning for annotation; the defaults are those of the published tutorial."""

    labels: LabelSettings = LabelSettings()
    n_genes: Count | None = None
    """Highly variable genes of the reference (seurat_v3, per batch) that are tokens where a cell
    has them; null: all genes."""
    depth_quantile: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Cells with more counts (of genes that have a token) than this quantile of all, of reference
    and query, are sampled down to so many: types and studies differ in depth, which should not tell
    one from the other. null: no cell is, as in the tutorial."""
    max_tokens: Count = 3001
    """Longest sequence, `<cls>` included; longer cells are sampled, in training anew each epoch."""
    class_weights: bool = True
    """Let all classes count alike in the loss, however many cells they have."""
    mask_share: Share = 0
    """Share of the values that are masked in training, against over-fitting."""
    epochs: Count = 10
    """Passes over the training cells, at most; where labels are few, as many steps as with all."""
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


class MultiomicsSettings(FineTuningSettings):
    """Fine-tuning on several modalities; the defaults are those of the published tutorial."""

    modalities: ModalitySettings = ModalitySettings()
    n_genes: Count = 1200
    """Highly variable genes (seurat_v3, per batch), beside all proteins and the chosen peaks: each
    is a token of every cell that was measured for it, zeros kept."""
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
    epochs: Count = 25
    """As in `FineTuningSettings`."""
    heldout_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the cells of each batch that the early stop looks at; 0: no early stop."""
    trainer: MultiomicsTrainer = MultiomicsTrainer()


def _check_ascending(rounds: tuple[int, ...]) -> tuple[int, ...]:
    if not rounds or list(rounds) != sorted(set(rounds)):
        message = f"{list(rounds)}: give one number at least, each once, from least to greatest"
        raise ValueError(message)
    return rounds


class GenerationSettings(Settings):
    """Generation of cells' profiles, and how they compare with true ones."""

    datasets: Names = ()
    """Data sets with cell types whose cells are generated."""
    known_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of a cell's genes that the gene prompt gives."""
    rounds: Annotated[tuple[Count, ...], AfterValidator(_check_ascending)] = (1, 5)
    """Numbers of rounds to try, ascending; in each, the surest genes become known to the next."""
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
