"""A model of a few thousand weights, for fine-tuning in seconds."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from scgpt_core.checkpoint import Checkpoint, save_checkpoint
from scgpt_core.config import ModelConfig
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import SPECIAL_TOKENS
from scgpt_core.model import ScGPT

CheckpointMaker = Callable[..., Checkpoint]


def save_tiny_model(
    folder: Path, genes: Iterable[str], *, n_layers: int = 1, width: int = 16
) -> Path:
    """Write the folder of a model that knows these genes, with weights of its own."""
    vocab = Vocabulary([*SPECIAL_TOKENS, *genes])
    torch.manual_seed(1)
    config = ModelConfig(
        width=width, n_layers=n_layers, n_heads=2, ffn_width=width, dropout=0.0, n_bins=11,
        n_tokens=vocab.n_tokens, pad_id=vocab.pad_id, cls_id=vocab.cls_id,
    )  # fmt: skip
    save_checkpoint(folder, ScGPT(config), vocab, training={})
    return folder
