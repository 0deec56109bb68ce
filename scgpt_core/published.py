"""The published checkpoint format: its names of weights, its settings, and ours for each.

A published folder has `args.json` (settings), `vocab.json` (symbol to token id) and `best_model.pt`
(a pickled state dict). Its settings do not tell the variant: that is read from the weights' names
and shapes.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from scgpt_core.config import ModelConfig
from scgpt_core.keys import SPECIAL_TOKENS

logger = logging.getLogger(__name__)

NAMES = (
    ("encoder.embedding.", "gene_embedding.table."),
    ("encoder.enc_norm.", "gene_embedding.norm."),
    ("value_encoder.linear1.", "value_embedding.hidden."),
    ("value_encoder.linear2.", "value_embedding.out."),
    ("value_encoder.norm.", "value_embedding.out_norm."),
    ("value_encoder.embedding.", "value_embedding.table."),
    ("value_encoder.enc_norm.", "value_embedding.norm."),
    ("pert_encoder.", "flag_embedding."),
    ("batch_encoder.embedding.", "batch_embedding.table."),
    ("batch_encoder.enc_norm.", "batch_embedding.norm."),
    ("mod_encoder.embedding.", "modality_embedding.table."),
    ("mod_encoder.enc_norm.", "modality_embedding.norm."),
    ("dsbn.bns.{}.", "domain_norm.domains.{}."),
    ("bn.", "batch_norm.domains.0."),
    ("transformer_encoder.layers.{}.self_attn.in_proj_", "layers.{}.attention.qkv."),
    ("transformer_encoder.layers.{}.self_attn.out_proj.", "layers.{}.attention.out."),
    ("transformer_encoder.layers.{}.linear1.", "layers.{}.ffn.0."),
    ("transformer_encoder.layers.{}.linear2.", "layers.{}.ffn.3."),
    ("transformer_encoder.layers.{}.norm1.", "layers.{}.norm1."),
    ("transformer_encoder.layers.{}.norm2.", "layers.{}.norm2."),
    ("decoder.fc.", "gep_head.value."),
    ("decoder.zero_logit.", "gep_head.nonzero."),
    ("decoder.coeff_decoder.fc.", "gep_head.coefficient.value."),
    ("decoder.coeff_decoder.zero_logit.", "gep_head.coefficient.nonzero."),
    ("decoder.bias_decoder.fc.", "gep_head.bias.value."),
    ("mvc_decoder.gene2query.", "gepc_head.query."),
    ("mvc_decoder.W.", "gepc_head.value."),
    ("mvc_decoder.W_zero_logit.", "gepc_head.nonzero."),
    ("mvc_decoder.fc1.", "gepc_head.hidden."),
    ("mvc_decoder.hidden_activation.", "gepc_head.activation."),
    ("mvc_decoder.fc2.", "gepc_head.out."),
    ("cls_decoder._decoder.", "class_head.hidden."),
    ("cls_decoder.out_layer.", "class_head.out."),
    ("grad_reverse_discriminator._decoder.", "batch_head.hidden."),
    ("grad_reverse_discriminator.out_layer.", "batch_head.out."),
)
"""Beginnings of names, published and ours; ``{}`` stands for a number."""

TORCH_SPELLING, FLASH_SPELLING = ".self_attn.in_proj_", ".self_attn.Wqkv."
"""The published code names the same matrix in two ways, with and without flash-attn."""

UNUSED = ("flag_encoder.", "decoder.bias_decoder.zero_logit.")
"""Published weights that our model has no place for: the flags of a pretraining code that was not
published whole, and a head whose output the published code throws away."""

ARGS = {
    "nheads": "n_heads",
    "n_layers_cls": "n_class_layers",
    "dropout": "dropout",
    "n_bins": "n_bins",
    "pad_value": "pad_value",
    "mask_value": "mask_value",
    "max_seq_len": "max_tokens",
    "input_emb_style": "value_style",
    "cell_emb_style": "cell_style",
    "decoder_activation": "gep_activation",
    "decoder_adaptive_bias": "gep_adaptive_bias",
}
"""Settings that the weights do not tell: published names and ours."""
_SILENT = ("n_bins", "pad_value", "mask_value", "input_emb_style")
"""Of them, those that change every embedding and that no weight tells."""


def _rules(pairs: Iterable[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(re.escape(a).replace(r"\{\}", r"(\d+)")), b) for a, b in pairs]


_TO_OURS = _rules(NAMES)
_TO_PUBLISHED = _rules((ours, published) for published, ours in NAMES)


def to_ours(name: str) -> str:
    """Our name of a published weight, in either spelling; a name that is in no table stays."""
    return _rename(name.replace(FLASH_SPELLING, TORCH_SPELLING), _TO_OURS)


def to_published(name: str, *, flash: bool = False) -> str:
    """Return the published name of one of our weights, in torch's spelling or flash-attn's."""
    published = _rename(name, _TO_PUBLISHED)
    return published.replace(TORCH_SPELLING, FLASH_SPELLING) if flash else published


def _rename(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, template in rules:
        if found := pattern.match(name):
            return template.format(*found.groups()) + name[found.end() :]
    return name


def read_config(
    args: Mapping[str, Any], weights: Mapping[str, Tensor], *, pad_id: int, cls_id: int
) -> ModelConfig:
    """Read the configuration of a published model.

    Parameters
    ----------
    args
        Content of `args.json`; keys of `ARGS` are read.
    weights
        State dict under our names.
    pad_id, cls_id
        Of the vocabulary.

    Raises
    ------
    ValueError
        Where the number of heads is missing, a setting is not allowed, or the weights are not those
        of an scGPT. Other settings are taken as in the published models where they are missing.
    """
    if "nheads" not in args or "gene_embedding.table.weight" not in weights:
        message = (
            "not a published scGPT: args.json must have `nheads`, the weights "
            f"`encoder.embedding.weight`; they have {', '.join(sorted(weights)[:5])}, ..."
        )
        raise ValueError(message)
    n_tokens, width = weights["gene_embedding.table.weight"].shape
    if untold := [name for name in _SILENT if args.get(name) is None]:
        logger.warning(
            "args.json has no %s: taken as in the published models (%s)",
            ", ".join(untold),
            ", ".join(f"{ARGS[n]} {ModelConfig.model_fields[ARGS[n]].default}" for n in untold),
        )
    settings = {ours: args[theirs] for theirs, ours in ARGS.items() if args.get(theirs) is not None}
    return ModelConfig(
        n_tokens=n_tokens,
        width=width,
        pad_id=pad_id,
        cls_id=cls_id,
        n_layers=_count(weights, "layers.{}.norm1.weight"),
        ffn_width=_rows(weights, "layers.0.ffn.0.weight") or width,
        **(settings | _read_variant(weights)),
    )


def _read_variant(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of ModelConfig that the names and shapes of the weights tell."""
    n_batches = (
        _rows(weights, "batch_embedding.table.weight")
        or _rows(weights, "batch_head.out.weight")
        or _count(weights, "domain_norm.domains.{}.running_mean")
        or None
    )
    batch_norm = "plain" if _has(weights, "batch_norm.") else None
    variant = {
        "gep": _has(weights, "gep_head."),
        "gepc": _read_gepc(weights),
        "explicit_zero_prob": any(".nonzero." in name for name in weights),
        "n_classes": _rows(weights, "class_head.out.weight"),
        "n_batches": n_batches,
        "batch_labels": _has(weights, "batch_embedding."),
        "dar": _has(weights, "batch_head."),
        "batch_norm": "domain" if _has(weights, "domain_norm.") else batch_norm,
        "n_modalities": _rows(weights, "modality_embedding.table.weight"),
        "perturbation_flags": _rows(weights, "flag_embedding.weight"),
        "affine_gep": _has(weights, "gep_head.coefficient."),
    }
    if variant["n_classes"]:
        # Each hidden layer has two weights, one of Linear and one of LayerNorm.
        variant["n_class_layers"] = _count(weights, "class_head.hidden.{}.weight") // 2 + 1
    return variant


def _read_gepc(weights: Mapping[str, Tensor]) -> str | None:
    if not _has(weights, "gepc_head."):
        return None
    if "gepc_head.value.weight" in weights:
        return "inner product"
    query_width = _rows(weights, "gepc_head.query.weight")
    meeting_width = weights["gepc_head.hidden.weight"].shape[1]
    return "sum query" if meeting_width == query_width else "concat query"


def _has(weights: Mapping[str, Tensor], beginning: str) -> bool:
    return any(name.startswith(beginning) for name in weights)


def _rows(weights: Mapping[str, Tensor], name: str) -> int | None:
    return weights[name].shape[0] if name in weights else None


def _count(weights: Mapping[str, Tensor], template: str) -> int:
    pattern = re.compile(re.escape(template).replace(r"\{\}", r"\d+"))
    return sum(pattern.fullmatch(name) is not None for name in weights)


def write_args(config: ModelConfig) -> dict[str, Any]:
    """Content of `args.json`: what `read_config` reads, and what the published code does."""
    pad, *_ = SPECIAL_TOKENS
    return {
        "embsize": config.width,
        "d_hid": config.ffn_width,
        "nlayers": config.n_layers,
        "pad_token": pad,
        "special_tokens": list(SPECIAL_TOKENS),
        **{theirs: getattr(config, ours) for theirs, ours in ARGS.items()},
    }
