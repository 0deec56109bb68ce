"""Weights into a model, by name: what fits is loaded, and nothing is lost in silence."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """Names of all weights of a model and of a file, by what became of them."""

    matched: tuple[str, ...]
    """Loaded."""
    missing: tuple[str, ...]
    """The model has them, the file has not: they keep their initial values."""
    unexpected: tuple[str, ...]
    """The file has them, the model has not."""
    mismatched: tuple[str, ...]
    """Both have them, in different shapes (given): they keep their initial values."""
    new_tokens: tuple[str, ...] = ()
    """Tokens that the model has beyond the file's vocabulary: their embeddings start anew."""

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} weights loaded"]
        for what in ("missing", "unexpected", "mismatched"):
            names = getattr(self, what)
            parts.append(f"{len(names)} {what}" + (f" ({', '.join(names)})" if names else ""))
        if self.new_tokens:
            parts.append(f"{len(self.new_tokens)} new tokens ({', '.join(self.new_tokens)})")
        return ", ".join(parts)


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    optional: Collection[str] = (),
    new_tokens: Collection[str] = (),
) -> LoadReport:
    """Copy weights into a model by name; what fits is loaded, and what does not is an error.

    Parameters
    ----------
    weights
        Under our names.
    optional
        Beginnings of names that may be missing, unexpected or of another shape.
    new_tokens
        Tokens whose rows in `weights` are new values: for the report.

    Raises
    ------
    ValueError
        Naming every weight that would be lost and is not declared optional.
    """
    own = model.state_dict()
    shared = [name for name in own if name in weights]
    differing = [name for name in shared if own[name].shape != weights[name].shape]
    lost = {
        "missing": [name for name in own if name not in weights],
        "unexpected": [name for name in weights if name not in own],
        "mismatched": [f"{n} {list(weights[n].shape)} -> {list(own[n].shape)}" for n in differing],
    }
    report = LoadReport(
        tuple(name for name in shared if name not in differing),
        **{what: tuple(names) for what, names in lost.items()},
        new_tokens=tuple(new_tokens),
    )
    errors = [
        f"{what}: {name}"
        for what, names in lost.items()
        for name in names
        if not name.startswith(tuple(optional))
    ]
    if errors:
        message = (
            f"{len(errors)} weights do not fit the model: {'; '.join(errors)}. Load a checkpoint "
            "of this architecture, or declare as optional what may start from new values"
        )
        raise ValueError(message)
    model.load_state_dict({name: weights[name] for name in report.matched}, strict=False)
    logger.info("%s", report)
    return report
