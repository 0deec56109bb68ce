"""Model folders: our own (safetensors) and the published format, read and written without loss.

Our folder has `model.safetensors`, `config.json` (ModelConfig), `vocab.json`, `training.json` and
`README.md` (a model card); the published one is described in `scgpt_core.published`. Every load
compares the names and shapes of all weights, and fails where one is lost that was not given up.
"""

import hashlib
import json
import logging
import pickle
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scgpt_core.config import ModelConfig
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.device import DeviceName, resolve_device
from scgpt_core.model import ScGPT
from scgpt_core.model.attention import BackendName
from scgpt_core.model.weights import LoadReport, load_weights
from scgpt_core.published import UNUSED, read_config, to_ours, to_published, write_args
from scgpt_core.runs import environment, read_json, sha256, whole, write_json
from scgpt_core.train.journal import METRICS

WEIGHTS, CONFIG, VOCAB = "model.safetensors", "config.json", "vocab.json"
TRAINING, CARD = "training.json", "README.md"
PUBLISHED_WEIGHTS, PUBLISHED_ARGS = "best_model.pt", "args.json"
TOKENS = "tokens.json"
"""In exported folders: the vocabulary of a model whose tokens are not symbols."""
_TABLE = "gene_embedding.table.weight"
_OTHERS = {METRICS, ".snakemake_timestamp"}
"""What a run of the pipeline leaves beside the files of a model."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A model that was loaded, and what belongs to it."""

    model: ScGPT
    """In evaluation mode."""
    vocab: Vocabulary
    config: ModelConfig
    report: LoadReport
    digest: str
    """SHA-256 of weights, configuration and vocabulary: equal for equal models in any format."""


def load_checkpoint(
    folder: str | Path, device: DeviceName | str = "auto", attention: BackendName = "auto"
) -> Checkpoint:
    """Load a model folder, our own or a published one.

    Parameters
    ----------
    folder
        A local folder.
    device
        Where the model goes: "auto" (a GPU where there is one), "cpu" or "cuda".
    attention
        Backend, see `scgpt_core.model.attention`.

    Raises
    ------
    ValueError
        Where files are missing or damaged, a weight would be lost, or the vocabulary is another.
    """
    folder = Path(folder)
    if (folder / PUBLISHED_ARGS).is_file():
        return import_published(folder, device, attention)
    weights_file = _find(folder, WEIGHTS)
    vocab = Vocabulary.load(_find(folder, VOCAB))
    config = ModelConfig.model_validate(read_json(_find(folder, CONFIG)))
    model = ScGPT(config, attention)
    try:
        weights = load_file(weights_file)
    except SafetensorError as error:
        message = f"{weights_file} is damaged ({error}): get it again"
        raise ValueError(message) from error
    report = load_weights(model, weights)
    training = folder / TRAINING
    model.provenance = read_json(training) if training.is_file() else None
    return _finish(folder, model, vocab, report, device)


def import_published(
    folder: str | Path, device: DeviceName | str = "auto", attention: BackendName = "auto"
) -> Checkpoint:
    """Load a folder in the published format, in either spelling of its names.

    Weights that no output depends on (`published.UNUSED`) are reported and left out. Nothing that
    is pickled runs: the weights are read as tensors only.

    Raises
    ------
    ValueError
        As `load_checkpoint`, and where a file holds pickled code.
    """
    folder = Path(folder)
    published = _read_pickled_weights(_find(folder, PUBLISHED_WEIGHTS))
    tokens = folder / TOKENS
    vocab = Vocabulary.load(tokens if tokens.is_file() else _find(folder, VOCAB))
    weights = {to_ours(name): tensor for name, tensor in published.items()}
    if len(weights) < len(published):
        message = (
            f"{folder}: weights stand twice in {PUBLISHED_WEIGHTS}, in both spellings: ask its "
            "author which are meant"
        )
        raise ValueError(message)
    args = read_json(_find(folder, PUBLISHED_ARGS))
    config = read_config(args, weights, pad_id=vocab.pad_id, cls_id=vocab.cls_id)
    model = ScGPT(config, attention)
    report = load_weights(model, weights, optional=UNUSED)
    model.provenance = {"source": f"imported from the published checkpoint {folder.name}"}
    return _finish(folder, model, vocab, report, device)


def adapt_model(
    ckpt: Checkpoint,
    changes: Mapping[str, Any],
    *,
    fresh: Collection[str] = (),
    inherit: Collection[str] = ("",),
    vocab: Vocabulary | None = None,
) -> tuple[ScGPT, LoadReport]:
    """Make a model of another variant that starts from a checkpoint's weights: for fine-tuning.

    Parameters
    ----------
    changes
        Fields of `ModelConfig` and their new values.
    fresh
        Beginnings of the names of weights that may start from new values, or are given up, as
        ``("class_head.", "batch_head.")``; ``("",)``: of all that are not inherited.
    inherit
        Beginnings of the names of weights to take; all by default.
    vocab
        The checkpoint's, with more tokens behind it, whose embeddings start from new values and
        are named by the report; None: the checkpoint's.

    Raises
    ------
    ValueError
        Naming every weight that the changes touch and that is not declared in `fresh`; or where
        tokens of the vocabulary have other ids than in the checkpoint's.
    """
    vocab, n_known = vocab or ckpt.vocab, ckpt.vocab.n_tokens
    if vocab.tokens[:n_known] != ckpt.vocab.tokens:
        message = "the vocabulary does not begin with the model's: extend it by Vocabulary.extend"
        raise ValueError(message)
    config = ModelConfig.model_validate(
        ckpt.config.model_dump() | dict(changes) | {"n_tokens": vocab.n_tokens}
    )
    model = ScGPT(config, ckpt.model.attention)
    weights = {k: v for k, v in ckpt.model.state_dict().items() if k.startswith(tuple(inherit))}
    new_tokens = vocab.tokens[n_known:]
    if new_tokens and _TABLE in weights:
        weights[_TABLE] = torch.cat([weights[_TABLE].cpu(), model.state_dict()[_TABLE][n_known:]])
    report = load_weights(model, weights, optional=fresh, new_tokens=new_tokens)
    model.vocab = vocab
    return model.to(next(ckpt.model.parameters()).device), report


def save_checkpoint(
    folder: str | Path, model: ScGPT, vocab: Vocabulary, training: Mapping[str, Any]
) -> None:
    """Write a model folder, whole or not at all; a model that was there is replaced.

    Parameters
    ----------
    training
        What `training.json` and the model card tell of how the weights came about; versions and
        commit are added, unless it is the record of these very weights.

    Raises
    ------
    ValueError
        Where the folder holds other files than those of a model.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in _state(model).items()}
    digest = model_digest(model, vocab)
    if (before := training.get("digest")) != digest:
        origin = {} if before is None else {"changed_from": before}
        training = {**training, **origin, "digest": digest, **environment()}
    with _new_folder(folder, {WEIGHTS, CONFIG, VOCAB, TRAINING, CARD}) as temporary:
        save_file(weights, temporary / WEIGHTS, metadata={"format": "pt"})
        write_json(temporary / CONFIG, model.config.model_dump(mode="json"))
        vocab.save(temporary / VOCAB)
        write_json(temporary / TRAINING, training)
        (temporary / CARD).write_text(_card(model, training))


def import_model(source: str | Path, folder: str | Path) -> None:
    """Make a published checkpoint one of our model folders; its files' SHA-256 are recorded."""
    ckpt = import_published(source, device="cpu")
    files = {path.name: sha256(path) for path in sorted(Path(source).iterdir()) if path.is_file()}
    training = {
        **(ckpt.model.provenance or {}),
        "source_sha256": files,
        "load_report": str(ckpt.report),
    }
    save_checkpoint(folder, ckpt.model, ckpt.vocab, training)


def export_published(ckpt: Checkpoint, folder: str | Path, *, flash: bool = False) -> None:
    """Write a folder in the published format, which `import_published` reads back bit for bit.

    Parameters
    ----------
    flash
        Spell the names as the published code does where flash-attn is installed.

    Raises
    ------
    ValueError
        Where the model has conditions or a perturbation context, which that format cannot hold, or
        the folder holds other files than those of a published model.
    """
    vocab = ckpt.vocab
    if ckpt.config.conditions:
        message = (
            "the published code knows no conditions, and this model was pretrained with those of "
            f"{', '.join(ckpt.config.conditions[:5])}...: it cannot be written in that format"
        )
        raise ValueError(message)
    if ckpt.config.perturbation_context:
        message = (
            "the published code knows no perturbation context, and this model was fine-tuned with "
            "one: it cannot be written in that format"
        )
        raise ValueError(message)
    # The published vocabulary is one of symbols; a symbol of several genes cannot stand for any.
    uses = Counter(vocab.symbols)
    names = [s if uses[s] == 1 else t for s, t in zip(vocab.symbols, vocab.tokens, strict=True)]
    weights = {
        to_published(name, flash=flash): tensor.detach().cpu().clone()
        for name, tensor in _state(ckpt.model).items()
    }
    names_of_files = {PUBLISHED_WEIGHTS, PUBLISHED_ARGS, VOCAB, TOKENS}
    with _new_folder(folder, names_of_files) as temporary:
        torch.save(weights, temporary / PUBLISHED_WEIGHTS)
        write_json(temporary / PUBLISHED_ARGS, write_args(ckpt.config))
        write_json(temporary / VOCAB, {name: id_ for id_, name in enumerate(names)})
        if names != vocab.tokens or vocab.symbols != vocab.tokens:
            vocab.save(temporary / TOKENS)


def model_digest(model: ScGPT, vocab: Vocabulary) -> str:
    """SHA-256 of a model's weights, configuration and vocabulary."""
    content = hashlib.sha256(json.dumps([model.config.model_dump(), vocab.digest]).encode())
    for name, tensor in sorted(_state(model).items()):
        array = tensor.detach().cpu().contiguous().numpy()
        content.update(f"{name} {array.dtype} {array.shape}".encode())
        content.update(array.tobytes())
    return content.hexdigest()


def _card(model: ScGPT, training: Mapping[str, Any]) -> str:
    """Model card, with the metadata that the Hugging Face Hub reads at its top."""
    config, n_parameters = model.config, sum(p.numel() for p in model.parameters())
    facts = {key: value for key, value in training.items() if not isinstance(value, (dict, list))}
    return f"""---
library_name: scgpt-core
license: mit
tags: [biology, single-cell, scgpt]
---
# scGPT, {n_parameters / 1e6:.1f} M parameters

A Transformer over sets of genes: {config.n_layers} layers of width {config.width} with
{config.n_heads} heads, {config.n_tokens} tokens, {config.n_bins} value bins.
It embeds single cells and predicts their gene expression, from raw counts.

```python
from scgpt_core.checkpoint import load_checkpoint
from scgpt_core.tasks.embedding import embed_cells

embeddings = embed_cells(adata, load_checkpoint("this/folder"))
```

## How the weights came about

| | |
|---|---|
{chr(10).join(f"| {key} | {value} |" for key, value in facts.items())}

`{TRAINING}` has all of it, `{CONFIG}` the settings, `{VOCAB}` the genes.

Architecture: Cui et al., scGPT, Nature Methods 2024.
"""


def _state(model: ScGPT) -> dict[str, Tensor]:
    state: dict[str, Tensor] = model.state_dict()
    return state


@contextmanager
def _new_folder(folder: str | Path, names: Collection[str]) -> Iterator[Path]:
    """Yield a folder to fill, as `whole`; ValueError where the one it replaces has other files."""
    folder = Path(folder)
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    foreign = sorted(found - {*names, *_OTHERS})
    if foreign:
        more = ", ..." if len(foreign) > 5 else ""
        message = (
            f"{folder} holds {', '.join(foreign[:5])}{more}, which a model written there would "
            "delete: name a new folder, or move them away"
        )
        raise ValueError(message)
    with whole(folder) as temporary:
        temporary.mkdir()
        yield temporary


def _find(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        found = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        message = (
            f"no {name} in {folder}, which has {', '.join(found) or 'nothing'}: a model folder has "
            f"{WEIGHTS}, {CONFIG} and {VOCAB}, or {PUBLISHED_WEIGHTS}, {PUBLISHED_ARGS} and {VOCAB}"
        )
        raise ValueError(message)
    return path


def _read_pickled_weights(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        message = (
            f"{path} is damaged, or holds pickled code beside tensors, which is never run: get the "
            "file again, or ask its author for a state dict of tensors alone"
        )
        raise ValueError(message) from error
    if not isinstance(content, dict) or not all(isinstance(x, Tensor) for x in content.values()):
        message = f"{path} is not a state dict: it must map names to tensors"
        raise ValueError(message)
    return content


def _finish(
    folder: Path, model: ScGPT, vocab: Vocabulary, report: LoadReport, device: DeviceName | str
) -> Checkpoint:
    config = model.config
    of_vocab = (vocab.n_tokens, vocab.pad_id, vocab.cls_id)
    of_model = (config.n_tokens, config.pad_id, config.cls_id)
    if of_vocab != of_model:
        message = (
            f"{folder}: (tokens, id of <pad>, id of <cls>) are {of_vocab} in the vocabulary and "
            f"{of_model} in the model: they do not belong together, get both from one model"
        )
        raise ValueError(message)
    model.vocab, model.load_report = vocab, report
    digest = model_digest(model, vocab)
    return Checkpoint(model.to(resolve_device(device)).eval(), vocab, config, report, digest)
