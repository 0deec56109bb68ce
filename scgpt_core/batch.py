"""What flows into the model and out of it.

Shapes: B cells in a batch, L gene tokens (the first is ``<cls>``), D width, C classes, K batches
(sequencing batches, for DAR).
"""

from typing import Any, NamedTuple, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor


class Batch(NamedTuple):
    """Cells as token sequences; every tensor is on one device."""

    ids_BL: Tensor
    """int64, token ids; ``pad_id`` where `padding_BL`."""
    values_BL: Tensor
    """float32, what the value encoder reads: bins, ``mask_value`` or 0, ``pad_value``."""
    padding_BL: Tensor
    """bool, True where the position is padding."""
    known_BL: Tensor | None = None
    """bool, True where other tokens may look (known genes, ``<cls>``); None: everywhere."""
    target_BL: Tensor | None = None
    """float32, the true bins, for the losses."""
    hidden_BL: Tensor | None = None
    """bool, True where the value was masked or is unknown: where GEP and GEPC are scored."""
    batch_B: Tensor | None = None
    """int64, sequencing batch of each cell."""
    label_B: Tensor | None = None
    """int64, class of each cell; -1 where it has none."""
    modality_BL: Tensor | None = None
    """int64, modality of each token."""
    perturbed_BL: Tensor | None = None
    """int64, perturbation flag of each token (0 no, 1 yes, 2 pad)."""
    condition_B: Tensor | None = None
    """int64, condition of each cell, by its number in `ModelConfig.conditions`; 0: not told."""
    cell_B: Tensor | None = None
    """int64, the cell's identity (``soma_joinid`` or a hash of its name)."""

    @classmethod
    def from_numpy(cls, *, pin: bool, **arrays: NDArray[Any] | None) -> "Batch":
        """Make a batch of arrays by name, on the CPU; None is left out.

        Parameters
        ----------
        pin
            Copy into page-locked memory, from which a GPU copies without waiting.
        """
        tensors = {name: torch.from_numpy(a) for name, a in arrays.items() if a is not None}
        return cls(**{name: t.pin_memory() if pin else t for name, t in tensors.items()})

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device; from page-locked memory without waiting."""
        return Batch._make(t if t is None else t.to(device, non_blocking=True) for t in self)


class Output(NamedTuple):
    """What the model gives back; None for the heads that are off."""

    cell_BD: Tensor
    """Cell embedding, not normalised."""
    token_BLD: Tensor | None = None
    """Encoder output; None where only the cell embedding was needed."""
    gep_BL: Tensor | None = None
    """Gene expression prediction from each token (published name: MLM)."""
    gep_nonzero_BL: Tensor | None = None
    """Probability that the value is not zero, from each token."""
    gepc_BL: Tensor | None = None
    """Gene expression prediction from the cell embedding (published name: MVC)."""
    gepc_nonzero_BL: Tensor | None = None
    """Probability that the value is not zero, from the cell embedding."""
    class_BC: Tensor | None = None
    """Cell type logits (CLS)."""
    batch_BK: Tensor | None = None
    """Sequencing batch logits behind gradient reversal (DAR; published: DAB)."""
    attention_BHLL: Tensor | None = None
    """Attention maps of the layer that was asked for, queries by keys (H heads)."""


T = TypeVar("T", Batch, Output)


def take_tokens(tensors: T, order_BL: Tensor) -> T:
    """Bring all that runs along tokens into another order (B x L indices of tokens)."""

    def take(x: Tensor) -> Tensor:
        return x.gather(1, order_BL if x.ndim == 2 else order_BL[..., None].expand_as(x))

    along_tokens = {
        name: take(x)
        for name, x in tensors._asdict().items()
        if x is not None and name.endswith(("_BL", "_BLD"))
    }
    return tensors._replace(**along_tokens)
