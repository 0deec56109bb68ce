"""What pretraining starts from: new weights, or another model's, for the genes that it knows.

Shapes: T tokens of a vocabulary, D width.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scgpt_core.checkpoint import Checkpoint, load_checkpoint
from scgpt_core.config import ModelConfig, PretrainSettings
from scgpt_core.data.corpus import Corpus
from scgpt_core.data.genes import match_genes
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import SPECIAL_TOKENS, UNKNOWN
from scgpt_core.model import ScGPT
from scgpt_core.model.weights import load_weights
from scgpt_core.train.coexpression import start_from_coexpression

_LEAST_KNOWN = 0.5
"""Share of the corpus's genes that the model to go on from must know."""
_TABLE = "gene_embedding.table.weight"
_CONDITIONS = "condition_embedding.weight"
_FED = {
    "batch_labels": (False,), "batch_norm": (None, "plain"), "n_modalities": (None,),
    "perturbation_flags": (None,), "explicit_zero_prob": (False,), "gep": (True,),
}  # fmt: skip
"""Fields of `ModelConfig` by what of them a corpus can feed, and the objective can train."""

logger = logging.getLogger(__name__)


def make_model(
    corpus: Corpus, settings: PretrainSettings, *, seed: int, init_from: Path | None
) -> tuple[ScGPT, str | None]:
    """Make the model to train, on the CPU, and the digest of what its weights come from.

    Parameters
    ----------
    corpus
        To train on: its vocabulary is the model's.
    seed
        Of new weights.
    init_from
        Model folder, our own or a published one. Its vocabulary may have other genes in another
        order, or names of another kind: weights go from gene to gene. None: all weights are new.

    Raises
    ------
    ValueError
        Where `init_from` has other bins than this run, knows too few of the corpus's genes, or is
        a variant for a task, with weights that pretraining does not train.
    """
    torch.manual_seed(seed)
    if init_from is None:
        return _make_new(corpus, settings, seed), None
    ckpt = load_checkpoint(init_from, device="cpu", attention=settings.trainer.attention)
    return _make_from(ckpt, corpus, settings, source=init_from), ckpt.digest


def _make_new(corpus: Corpus, settings: PretrainSettings, seed: int) -> ScGPT:
    config = ModelConfig(
        **settings.architecture.model_dump(),
        **_tokens(corpus.vocab),
        n_bins=settings.n_bins,
        max_tokens=settings.max_tokens,
        conditions=list_conditions(corpus, settings.condition_by),
    )
    model = ScGPT(config, attention=settings.trainer.attention)
    # Bins are about uniform: from their mean on, the first steps learn genes, not an offset.
    nn.init.constant_(model.get_parameter("gep_head.value.4.bias"), config.n_bins / 2)
    if settings.gene_start == "coexpression":
        start_from_coexpression(model.gene_embedding.table.weight, corpus, seed=seed)
    return model


def _make_from(
    ckpt: Checkpoint, corpus: Corpus, settings: PretrainSettings, *, source: Path
) -> ScGPT:
    if ckpt.config.n_bins != settings.n_bins:
        message = (
            f"the model {source} has {ckpt.config.n_bins} bins, this run {settings.n_bins}: set "
            "pretrain.n_bins to those of the model"
        )
        raise ValueError(message)
    settings_of = ckpt.config.model_dump()
    if other := [f"{k}: {settings_of[k]}" for k, fed in _FED.items() if settings_of[k] not in fed]:
        message = (
            f"the model {source} is a variant that pretraining cannot go on from "
            f"({', '.join(other)}): give the pretrained model that it was made of"
        )
        raise ValueError(message)
    logger.info(
        "weights and size are those of %s, whatever pretrain.architecture and gene_start say",
        source,
    )
    changes = {
        **_tokens(corpus.vocab),
        "n_classes": None,
        "dar": False,
        "dropout": settings.architecture.dropout,
        "max_tokens": settings.max_tokens,
        "conditions": list_conditions(corpus, settings.condition_by),
    }
    config = ModelConfig.model_validate(ckpt.config.model_dump() | changes)
    model = ScGPT(config, attention=settings.trainer.attention)
    weights = dict(ckpt.model.state_dict())
    if ckpt.vocab.digest != corpus.vocab.digest:
        weights[_TABLE] = _move_genes(ckpt, corpus.vocab, model.state_dict()[_TABLE], source)
    if model.condition_embedding is not None:
        weights[_CONDITIONS] = _move_conditions(ckpt, model.config.conditions)
    load_weights(model, weights, optional=("class_head.", "batch_head.", _CONDITIONS))
    return model


def _tokens(vocab: Vocabulary) -> dict[str, Any]:
    return {"n_tokens": vocab.n_tokens, "pad_id": vocab.pad_id, "cls_id": vocab.cls_id}


def list_conditions(corpus: Corpus, column: str | None) -> tuple[str, ...]:
    """Values of an obs column of the corpus, sorted, but for "unknown"; none of no column."""
    if column is None:
        return ()
    return tuple(sorted(set(corpus.obs(column).unique().to_pylist()) - {UNKNOWN}))


def number_conditions(
    corpus: Corpus, conditions: Sequence[str], column: str | None
) -> NDArray[np.int64] | None:
    """Look up the number of each cell's condition, (N,); 0 where the model does not know it.

    Parameters
    ----------
    conditions
        Those of the model.
    column
        Of obs; None: nothing is told, and None comes back.
    """
    if column is None:
        return None
    values = corpus.obs(column)
    number = {condition: i for i, condition in enumerate(conditions, 1)}
    numbers_V = np.array([number.get(value, 0) for value in values.dictionary.to_pylist()])
    return np.asarray(numbers_V[values.indices.to_numpy()], np.int64)


def _move_genes(ckpt: Checkpoint, vocab: Vocabulary, new_TD: Tensor, source: Path) -> Tensor:
    """Embeddings of the corpus's tokens: the model's where it knows the gene, else the new ones."""
    genes = vocab.gene_ids
    match = match_genes(
        (vocab.tokens[id_] for id_ in genes),
        ckpt.vocab,
        symbols=(vocab.symbols[id_] for id_ in genes),
    )
    match.require(_LEAST_KNOWN, source=f"the corpus, in the vocabulary of {source}")
    logger.info("the model has another vocabulary: %s; the others start anew", match.report())
    theirs_TD, table_TD = ckpt.model.state_dict()[_TABLE], new_TD.clone()
    table_TD[genes[match.matched]] = theirs_TD[match.ids[match.matched]]
    table_TD[vocab.ids(SPECIAL_TOKENS)] = theirs_TD[ckpt.vocab.ids(SPECIAL_TOKENS)]
    return table_TD


def _move_conditions(ckpt: Checkpoint, conditions: Sequence[str]) -> Tensor:
    """Vectors of the corpus's conditions: the model's where it knows them, else 0."""
    table_CD = torch.zeros(len(conditions) + 1, ckpt.config.width)
    number = {condition: i for i, condition in enumerate(ckpt.config.conditions, 1)}
    known = [i for i, condition in enumerate(conditions, 1) if condition in number]
    if known:
        theirs_CD = ckpt.model.state_dict()[_CONDITIONS]
        table_CD[known] = theirs_CD[[number[conditions[i - 1]] for i in known]]
    logger.info("the model knows %d of %d conditions", len(known), len(conditions))
    return table_CD
