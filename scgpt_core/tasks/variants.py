"""The variant of a model that a task fine-tunes, and which weights it starts from."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import torch

from scgpt_core.checkpoint import Checkpoint, adapt_model
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.model import ScGPT
from scgpt_core.model.weights import LoadReport

Init = Literal["pretrained", "random"]
"""Weights that a fine-tuning starts from; random: the model folder gives vocabulary and size."""
FRESH: Final = (
    "batch_embedding.", "domain_norm.", "gep_head.", "gepc_head.", "batch_head.", "class_head.",
    "condition_embedding.",
)  # fmt: skip
"""Weights that depend on batches, classes and conditions: they start anew, or are given up, where
they do not fit."""


def make_variant(
    ckpt: Checkpoint,
    changes: Mapping[str, Any],
    *,
    init: Init,
    seed: int,
    dropout: float | None,
    inherit: Literal["all", "genes"] = "all",
    fresh: tuple[str, ...] = FRESH,
    vocab: Vocabulary | None = None,
) -> tuple[ScGPT, LoadReport]:
    """Make a variant of a model, on its device; the report, which is logged, names what is lost.

    Parameters
    ----------
    changes
        Fields of `ModelConfig` and their new values; conditions, which no task tells, go anyway.
    init
        "random": no weights are inherited.
    seed
        Of the weights that start anew.
    dropout
        Of the variant; None: the model's own.
    inherit
        What a pretrained variant takes: all that fits, or the gene embedding alone.
    fresh, vocab
        As in `adapt_model`.
    """
    changes = {"conditions": (), **changes}
    if dropout is not None:
        changes["dropout"] = dropout
    torch.manual_seed(seed)
    if init == "pretrained" and inherit == "all":
        return adapt_model(ckpt, changes, fresh=fresh, vocab=vocab)
    taken = ("gene_embedding.",) if init == "pretrained" else ()
    return adapt_model(ckpt, changes, fresh=("",), inherit=taken, vocab=vocab)


def without_batches(ckpt: Checkpoint) -> dict[str, Any]:
    """Give the changes that let a model do without knowing of sequencing batches."""
    changes: dict[str, Any] = {"n_batches": None, "batch_labels": False, "dar": False}
    return changes | ({"batch_norm": None} if ckpt.config.batch_norm == "domain" else {})
