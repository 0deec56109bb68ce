"""ScGPT: cells as sets of gene tokens, through a Transformer, to predictions of cells and genes.

Shapes: B cells, L gene tokens (the first is ``<cls>``), D width, H heads, K sequencing batches.
"""

from collections.abc import Collection
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from scgpt_core.batch import Batch, Output, take_tokens
from scgpt_core.config import ModelConfig
from scgpt_core.model.attention import BackendName, choose_backend, make_mask
from scgpt_core.model.embeddings import ContinuousValues, DomainNorm, NormedEmbedding
from scgpt_core.model.heads import (
    AffineGEPHead,
    Classifier,
    GEPCHead,
    GEPHead,
    reverse_gradient,
)
from scgpt_core.model.hub import HubModel
from scgpt_core.model.transformer import Layer

Head = Literal["gep", "gepc", "cls", "dar"]


class ScGPT(nn.Module, HubModel):
    """The model in all its published variants (Cui et al., Nature Methods 2024).

    Parameters
    ----------
    config
        Size and variant.
    attention
        Backend, see `scgpt_core.model.attention`.
    """

    def __init__(self, config: ModelConfig, attention: BackendName = "auto") -> None:
        super().__init__()
        self.config = config
        self.attention = attention
        width = config.width
        self.gene_embedding = NormedEmbedding(config.n_tokens, width, config.pad_id)
        nn.init.uniform_(self.gene_embedding.table.weight, -0.1, 0.1)
        self.value_embedding = _value_embedding(config)
        self.flag_embedding = _flag_embedding(config)
        self.condition_embedding = _condition_embedding(config)
        self.batch_embedding = _batch_embedding(config)
        self.modality_embedding = _modality_embedding(config)
        self.target_context = (
            nn.Linear(width, width, bias=False) if config.perturbation_context else None
        )
        self.domain_norm = _domain_norm(config)
        self.batch_norm = _batch_norm(config)
        self.layers = nn.ModuleList(
            Layer(width, config.n_heads, config.ffn_width, config.dropout)
            for _ in range(config.n_layers)
        )
        self.gep_head = _gep_head(config)
        self.gepc_head = _gepc_head(config)
        self.class_head = _class_head(config)
        self.batch_head = _batch_head(config)

    @property
    def heads(self) -> frozenset[Head]:
        """Names of the heads that this model has."""
        modules = (self.gep_head, self.gepc_head, self.class_head, self.batch_head)
        return frozenset(
            name for name, module in zip(get_args(Head), modules, strict=True) if module is not None
        )

    def forward(
        self,
        batch: Batch,
        *,
        heads: Collection[Head] | None = None,
        prompt_BD: Tensor | None = None,
        attention_layer: int | None = None,
    ) -> Output:
        """Embed cells and predict.

        Parameters
        ----------
        batch
            Cells; `known_BL` asks for the generative attention mask.
        heads
            What to predict, of "gep", "gepc", "cls", "dar"; None: all that the model has; (): only
            the cell embedding. What is not asked for is not computed: without "gep", and with
            `cell_style` "cls", the last layer encodes ``<cls>`` alone.
        prompt_BD
            Cell embeddings that take the place of ``<cls>`` in the input: cell-prompted generation.
        attention_layer
            Layer whose attention maps come back, as a list index (-1: the last).

        Raises
        ------
        ValueError
            Where the model lacks a head that is asked for, or the batch lacks what it reads.
        """
        asked = self.heads if heads is None else frozenset(heads)
        if asked - self.heads:
            message = (
                f"the model has the heads {sorted(self.heads)}, not {sorted(asked - self.heads)}"
            )
            raise ValueError(message)
        order_BL = None
        if batch.known_BL is not None and attention_layer is None:
            # A set has no order, and attention is spared where all that is seen stands in front.
            order_BL = batch.known_BL.int().argsort(dim=1, descending=True, stable=True)
            batch = take_tokens(batch, order_BL)
        output = self._run(batch, asked, prompt_BD, attention_layer)
        if order_BL is not None:
            output = take_tokens(output, order_BL.argsort(dim=1))
        # Sharded modules hook their backward pass onto their outputs, which must not be views.
        return Output._make(t.clone() if t is not None and t._is_view() else t for t in output)

    def _run(
        self,
        batch: Batch,
        asked: frozenset[Head],
        prompt_BD: Tensor | None,
        attention_layer: int | None,
    ) -> Output:
        gene_BLD = self.gene_embedding(batch.ids_BL)
        x_BLD = self.embed_tokens(gene_BLD, batch)
        if prompt_BD is not None:
            x_BLD = torch.cat([prompt_BD[:, None].to(x_BLD), x_BLD[:, 1:]], dim=1)
        only_cls = "gep" not in asked and self.config.cell_style == "cls"
        x_BLD, maps_BHLL = self._encode(x_BLD, batch, attention_layer, only_cls=only_cls)
        cell_BD = self._pool(x_BLD, batch)
        output = Output(cell_BD, token_BLD=None if only_cls else x_BLD, attention_BHLL=maps_BHLL)
        return self._predict(output, gene_BLD, batch, asked)

    def embed_tokens(self, gene_BLD: Tensor, batch: Batch) -> Tensor:
        """Sum what is known of each token, with its gene embedding: what enters the first layer."""
        if self.value_embedding is None:
            x_BLD = gene_BLD * batch.values_BL[..., None]
        elif isinstance(self.value_embedding, NormedEmbedding):
            x_BLD = gene_BLD + self.value_embedding(batch.values_BL.long())
        else:
            x_BLD = gene_BLD + self.value_embedding(batch.values_BL)
        if self.flag_embedding is not None:
            x_BLD = x_BLD + self.flag_embedding(_given(batch.perturbed_BL, "perturbed_BL"))
        if self.condition_embedding is not None and batch.condition_B is not None:
            x_BLD = x_BLD + self.condition_embedding(batch.condition_B)[:, None]
        if self.domain_norm is not None:
            x_BLD = self.domain_norm(x_BLD, _given(batch.batch_B, "batch_B"))
        if self.batch_norm is not None:
            x_BLD = self.batch_norm(x_BLD, batch.ids_BL.new_zeros(len(batch.ids_BL)))
        return x_BLD

    def _encode(
        self, x_BLD: Tensor, batch: Batch, attention_layer: int | None, *, only_cls: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layers; gives tokens (``<cls>`` alone if that is enough) and attention maps."""
        backend = choose_backend(
            self.attention,
            x_BLD.device,
            generative=batch.known_BL is not None,
            dropout=self.config.dropout if self.training else 0.0,
            head_width=self.config.width // self.config.n_heads,
        )
        mask = make_mask(batch.padding_BL, batch.known_BL, backend)
        mapped = None if attention_layer is None else range(len(self.layers))[attention_layer]
        maps_BHLL = None
        for i, layer in enumerate(self.layers):
            # Nothing reads the other tokens behind the last layer, unless its maps are asked for.
            n_queries = 1 if only_cls and i == len(self.layers) - 1 and i != mapped else None
            x_BLD, maps = layer(x_BLD, mask, backend=backend, n_queries=n_queries, maps=i == mapped)
            maps_BHLL = maps if i == mapped else maps_BHLL
        return x_BLD, maps_BHLL

    def _pool(self, x_BLD: Tensor, batch: Batch) -> Tensor:
        """Cell embeddings BD from vectors of the tokens BLD."""
        if self.config.cell_style == "cls":
            return x_BLD[:, 0]
        real_BL1 = ~batch.padding_BL[..., None]
        if self.config.cell_style == "avg-pool":
            return torch.where(real_BL1, x_BLD, 0.0).sum(1) / real_BL1.sum(1)
        weighted_BLD = x_BLD * batch.values_BL[..., None]
        return F.normalize(torch.where(real_BL1, weighted_BLD, 0.0).sum(1), dim=1)

    def _predict(
        self, output: Output, gene_BLD: Tensor, batch: Batch, asked: frozenset[Head]
    ) -> Output:
        """Add the predictions of the heads that are asked for."""
        cell_BD = output.cell_BD
        context_BLD, context_BD = None, None
        if asked & {"gep", "gepc"}:
            context_BLD, context_BD = self._context(batch, gene_BLD)
        if self.gep_head is not None and "gep" in asked:
            assert output.token_BLD is not None, "all tokens are encoded where GEP is asked for"
            gep = self.gep_head(_beside(output.token_BLD, context_BLD), batch.values_BL)
            output = output._replace(gep_BL=gep.value_BL, gep_nonzero_BL=gep.nonzero_BL)
        if self.gepc_head is not None and "gepc" in asked:
            # The batch is a matter of the cell; modalities are one of each gene, hence of queries.
            query_BLD = _beside(gene_BLD, context_BLD if self.modality_embedding else None)
            gepc = self.gepc_head(_beside(cell_BD, context_BD), query_BLD)
            output = output._replace(gepc_BL=gepc.value_BL, gepc_nonzero_BL=gepc.nonzero_BL)
        if self.class_head is not None and "cls" in asked:
            output = output._replace(class_BC=self.class_head(cell_BD))
        if self.batch_head is not None and "dar" in asked:
            output = output._replace(batch_BK=self.batch_head(reverse_gradient(cell_BD)))
        return output

    def _context(self, batch: Batch, gene_BLD: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Embed what is known of tokens (B1D or BLD) and cells (BD) beside their expression."""
        context_BLD, context_BD = None, None
        if self.batch_embedding is not None:
            context_BD = self.batch_embedding(_given(batch.batch_B, "batch_B"))
            context_BLD = context_BD[:, None]
        if self.modality_embedding is not None:
            modality_BLD = self.modality_embedding(_given(batch.modality_BL, "modality_BL"))
            modality_BD = self._pool(modality_BLD, batch)
            context_BLD = modality_BLD if context_BLD is None else context_BLD + modality_BLD
            context_BD = modality_BD if context_BD is None else context_BD + modality_BD
        if self.target_context is not None:
            is_target_BL1 = (_given(batch.perturbed_BL, "perturbed_BL") == 1)[..., None]
            target_BD = self.target_context(torch.where(is_target_BL1, gene_BLD, 0.0).sum(1))
            affinity_BLD = target_BD[:, None] * gene_BLD
            context_BLD = affinity_BLD if context_BLD is None else context_BLD + affinity_BLD
        return context_BLD, context_BD


def _beside(x: Tensor, context: Tensor | None) -> Tensor:
    """Concatenate a context, the same for all tokens or one for each, to the width."""
    return x if context is None else torch.cat([x, context.expand_as(x)], dim=-1)


def _given(tensor: Tensor | None, name: str) -> Tensor:
    if tensor is None:
        message = f"this variant of the model reads Batch.{name}, which the batch lacks"
        raise ValueError(message)
    return tensor


def _value_embedding(config: ModelConfig) -> ContinuousValues | NormedEmbedding | None:
    if config.value_style == "continuous":
        return ContinuousValues(config.width, config.dropout, config.n_bins)
    if config.value_style == "scaling":
        return None
    n_entries = max(config.n_bins, config.pad_value + 1, config.mask_value + 1)
    return NormedEmbedding(n_entries, config.width, config.pad_value)


def _flag_embedding(config: ModelConfig) -> nn.Embedding | None:
    n_flags = config.perturbation_flags
    return nn.Embedding(n_flags, config.width, padding_idx=n_flags - 1) if n_flags else None


def _condition_embedding(config: ModelConfig) -> nn.Embedding | None:
    """Vectors of the conditions behind that of one that is not told, which is and stays 0."""
    if not config.conditions:
        return None
    embedding = nn.Embedding(len(config.conditions) + 1, config.width, padding_idx=0)
    nn.init.zeros_(embedding.weight)  # what a condition means is all to be learned
    return embedding


def _batch_embedding(config: ModelConfig) -> NormedEmbedding | None:
    if not config.batch_labels:
        return None
    return NormedEmbedding(_count(config.n_batches), config.width)


def _modality_embedding(config: ModelConfig) -> NormedEmbedding | None:
    n = config.n_modalities
    return NormedEmbedding(n, config.width, padding_id=n - 1) if n else None


def _domain_norm(config: ModelConfig) -> DomainNorm | None:
    if config.batch_norm != "domain":
        return None
    return DomainNorm(config.width, _count(config.n_batches), affine=False)


def _batch_norm(config: ModelConfig) -> DomainNorm | None:
    return DomainNorm(config.width, 1, affine=True) if config.batch_norm == "plain" else None


def _context_width(config: ModelConfig) -> int:
    """Width of a token or cell with its context beside it."""
    has_context = config.batch_labels or config.n_modalities or config.perturbation_context
    return config.width * (2 if has_context else 1)


def _gep_head(config: ModelConfig) -> GEPHead | AffineGEPHead | None:
    if not config.gep:
        return None
    widths = _context_width(config), config.width
    if not config.affine_gep:
        return GEPHead(*widths, explicit_zero_prob=config.explicit_zero_prob)
    return AffineGEPHead(
        *widths,
        explicit_zero_prob=config.explicit_zero_prob,
        activation=config.gep_activation,
        adaptive_bias=config.gep_adaptive_bias,
    )


def _gepc_head(config: ModelConfig) -> GEPCHead | None:
    if config.gepc is None:
        return None
    cell_width = _context_width(config)
    return GEPCHead(
        cell_width,
        cell_width if config.n_modalities else config.width,
        style=config.gepc,
        explicit_zero_prob=config.explicit_zero_prob,
    )


def _class_head(config: ModelConfig) -> Classifier | None:
    if config.n_classes is None:
        return None
    n_layers = config.n_class_layers
    return Classifier(config.width, config.n_classes, n_layers=n_layers, activation=nn.ReLU)


def _batch_head(config: ModelConfig) -> Classifier | None:
    if not config.dar:
        return None
    return Classifier(config.width, _count(config.n_batches), n_layers=3, activation=nn.LeakyReLU)


def _count(n_batches: int | None) -> int:
    assert n_batches is not None, "ModelConfig asks for n_batches where it is needed"
    return n_batches
