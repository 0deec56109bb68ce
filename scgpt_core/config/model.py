"""Size and variant of a model."""

from typing import Literal, Self

from pydantic import Field, model_validator

from scgpt_core.config.base import Count, Settings


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
            message = f"width {self.width} is not a multiple of n_heads {self.n_heads}: change one"
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
            message = "gep_activation and gep_adaptive_bias belong to affine_gep: set it to true"
            raise ValueError(message)
        if self.affine_gep and not self.gep:
            message = "affine_gep is a kind of gep, which is off: set gep to true"
            raise ValueError(message)
        if self.value_style == "category" and self.pad_value < 0:
            message = f"value_style: category needs a pad_value of 0 or more, not {self.pad_value}"
            raise ValueError(message)
        return self
