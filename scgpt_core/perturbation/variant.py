"""The variant of a model that predicts perturbed cells, and the tokens of a data set's genes.

Shapes: G measured genes, T tokens of the vocabulary, F features, D width.
"""

import dataclasses
import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scgpt_core.checkpoint import Checkpoint
from scgpt_core.config import PerturbationSettings
from scgpt_core.data.genes import match_genes, match_var
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.model import ScGPT
from scgpt_core.model.heads import AffineGEPHead
from scgpt_core.networks.gene_sets import GeneSets
from scgpt_core.perturbation.data import Perturbations
from scgpt_core.perturbation.features import pathway_features
from scgpt_core.perturbation.pairs import N_FLAGS, Tokens
from scgpt_core.tasks.variants import FRESH, Init, make_variant, without_batches

_PLAIN = {
    "n_classes": None, "gep": True, "gepc": None, "explicit_zero_prob": False,
}  # fmt: skip
"""What a perturbation model does without."""
_FRESH = (*FRESH, "flag_embedding.", "target_context.")
_TABLE = "gene_embedding.table.weight"

logger = logging.getLogger(__name__)


def add_tokens(ckpt: Checkpoint, data: Perturbations, *, min_matched: float) -> Checkpoint:
    """Give the genes of the data that a model does not know tokens, which start from the mean gene.

    A perturbed gene without a token could not be told to the model at all.

    Raises
    ------
    ValueError
        Where less than the share `min_matched` of the expression has a token.
    """
    match = match_var(data.var, ckpt.vocab)
    match.require(min_matched, np.asarray(data.log_NG.sum(axis=0)).ravel())
    measured = [name for name, known in zip(data.genes, match.matched, strict=True) if not known]
    others = [gene for gene in data.perturbed if gene not in data.column_of]
    unknown = match_genes(others, ckpt.vocab)
    new = measured + [g for g, known in zip(others, unknown.matched, strict=True) if not known]
    new = [name for name in dict.fromkeys(new) if name not in ckpt.vocab]
    if not new:
        return ckpt
    logger.info("%d genes get a token of their own: %s", len(new), ", ".join(new[:10]))
    vocab = Vocabulary([*ckpt.vocab.tokens, *new], [*ckpt.vocab.symbols, *new])
    config = ckpt.config.model_copy(update={"n_tokens": vocab.n_tokens})
    state = ckpt.model.state_dict()
    mean_1D = state[_TABLE][torch.from_numpy(ckpt.vocab.gene_ids).long()].mean(0, keepdim=True)
    state[_TABLE] = torch.cat([state[_TABLE], mean_1D.expand(len(new), -1)])
    model = ScGPT(config, ckpt.model.attention)
    model.load_state_dict(state)
    model = model.to(state[_TABLE].device)
    return dataclasses.replace(ckpt, model=model, vocab=vocab, config=config)


def make_tokens(ckpt: Checkpoint, data: Perturbations, settings: PerturbationSettings) -> Tokens:
    """Token ids of measured and perturbed genes.

    Raises
    ------
    ValueError
        Where the model reads bins, which log-normalised expression is not.
    """
    if ckpt.config.value_style == "category":
        message = (
            "the model has a vector for each bin (value_style: category): perturbations are "
            "predicted from continuous values; choose another model"
        )
        raise ValueError(message)
    ids_G = match_var(data.var, ckpt.vocab).ids.astype(np.int64)
    others = [gene for gene in data.perturbed if gene not in data.column_of]
    id_of = dict(zip(others, match_genes(others, ckpt.vocab).ids.tolist(), strict=True))
    id_of |= {gene: int(ids_G[column]) for gene, column in data.column_of.items()}
    return Tokens(
        ckpt.config,
        columns=np.flatnonzero(ids_G >= 0),
        ids_G=ids_G,
        id_of=id_of,
        column_of=data.column_of,
        target_value_G=_target_values(data, settings),
    )


def _target_values(
    data: Perturbations, settings: PerturbationSettings
) -> NDArray[np.float32] | None:
    if settings.target_value == "kept":
        return None
    if settings.target_value == "zero":
        return np.zeros(len(data.genes), np.float32)
    return np.asarray(data.log_NG[data.is_input].max(axis=0).toarray().ravel(), np.float32)


def make_model(
    ckpt: Checkpoint,
    data: Perturbations,
    tokens: Tokens,
    settings: PerturbationSettings,
    *,
    gene_sets: GeneSets,
    init: Init,
    seed: int,
) -> ScGPT:
    """Make the variant of a model that predicts perturbed cells, on the model's device.

    Parameters
    ----------
    gene_sets
        Symbols by the name of their set, for `gene_start: pathways`.
    init
        "pretrained": what fits is inherited, and the log lists what is not; "random": nothing is.
    seed
        Of the weights that start anew.
    """
    changes: dict[str, Any] = {
        **without_batches(ckpt),
        **_PLAIN,
        "perturbation_flags": N_FLAGS,
        "perturbation_context": settings.context,
        "affine_gep": settings.affine,
        "max_tokens": 1 + min(settings.max_genes, len(tokens.columns)) + 2,
    }
    model, _ = make_variant(
        ckpt, changes, init=init, seed=seed, dropout=settings.dropout, fresh=_FRESH
    )
    if settings.gene_start == "pathways":
        _start_from_pathways(model, data, tokens, gene_sets, seed=seed)
    model.gene_embedding.requires_grad_(not settings.freeze_genes)
    return model


@torch.no_grad()
def scale_predictions(model: ScGPT, factor: float) -> None:
    """Let a model of `make_model` predict `factor` times what it does, in place."""
    head = model.gep_head
    assert head is not None, "a perturbation model predicts expression"
    parts = [head.coefficient, head.bias] if isinstance(head, AffineGEPHead) else [head]
    for part in parts:
        for parameter in part.value[-1].parameters():
            parameter.mul_(factor)


@torch.no_grad()
def _start_from_pathways(
    model: ScGPT, data: Perturbations, tokens: Tokens, gene_sets: GeneSets, *, seed: int
) -> None:
    """Add to the embeddings of the data's genes vectors that are near where they share gene sets.

    They are as long as the embeddings are on average, so that both count alike.
    """
    from sklearn.decomposition import TruncatedSVD  # takes a second, which most jobs need not spend

    genes = [name for name, id_ in zip(data.genes, tokens.ids_G, strict=True) if id_ >= 0]
    ids = [int(id_) for id_ in tokens.ids_G if id_ >= 0]
    for gene, id_ in tokens.id_of.items():
        if gene not in data.column_of:
            genes.append(gene)
            ids.append(id_)
    member_PF = pathway_features(genes, gene_sets)
    table_TD = model.gene_embedding.table.weight
    width = table_TD.shape[1]
    if min(member_PF.shape) > width:
        member_PF = TruncatedSVD(width, random_state=seed).fit_transform(member_PF)
    vector_PD = np.zeros((len(genes), width))
    vector_PD[:, : member_PF.shape[1]] = member_PF[:, :width]
    # Turned at random: no dimension of the embedding is about pathways alone.
    turn_DD = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]
    length = (table_TD[ids] - table_TD[ids].mean(0)).norm(dim=1).mean()
    table_TD[ids] += length * torch.from_numpy(vector_PD @ turn_DD).to(table_TD)
