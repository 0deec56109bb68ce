"""What the report says of corpora, and of pretraining on them."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from scgpt_core.findings.words import compare, plural

PREDICTORS: Final = {
    "gene_mean": "the gene's mean",
    "ridge": "ridge regression on principal components",
}
"""Titles of the simple predictors that pretraining is compared with."""


def cells_left(funnel: Mapping[str, int]) -> dict[str, int]:
    """Cells that are left after each check of quality control, in its order.

    Parameters
    ----------
    funnel
        Of a corpus's manifest: "cells in", cells dropped for each reason, "cells out".
    """
    left = funnel["cells in"]
    steps = {"cells of the query": left}
    for reason, n_cells in funnel.items():
        if reason not in ("cells in", "cells out"):
            left -= n_cells
            steps[f"− {reason}"] = left
    return steps


def say_corpus(manifest: Mapping[str, Any]) -> str:
    """Say in Markdown how many cells a corpus has, from where, and which are held out."""
    cells_in, n_cells = manifest["funnel"]["cells in"], manifest["n_cells"]
    said = (
        f"The corpus **{manifest['corpus']}** has **{n_cells:,} cells**, {n_cells / cells_in:.1%} "
        f"of the {cells_in:,} that the query gave, with {manifest['nnz'] / n_cells:,.0f} genes in "
        "a cell on average. "
    )
    split = manifest["split"]
    if not split["heldout"]:
        return said + "No cells are held out of training."
    what = {"dataset_id": "data set", "donor_id": "donor"}[split["by"]]
    groups = plural(len(split["heldout"]), f"whole {what}")
    return said + (
        f"{split['heldout_cells']:,} of them ({split['heldout_cells'] / n_cells:.1%}) are held out "
        f"of training ({groups}): a model is judged on cells of a {what} that it has not seen."
    )


def say_stand_in(corpus: str | None) -> str:
    """Say in Markdown that a corpus is not the one that the model was trained on; None: it is."""
    if corpus is None:
        return ""
    return (
        "The model was imported, and which cells it was trained on is not known here: what is told "
        f"of a corpus is of **{corpus}**, which this run made."
    )


def say_overlap(
    overlap: Mapping[str, Mapping[str, Any]],
    datasets: Collection[str],
    stand_in: str | None = None,
) -> str:
    """Say in Markdown which cells that a model is tested on are in the corpus that it has seen.

    Parameters
    ----------
    overlap
        What `check_dataset` tells, by the data set's name.
    datasets
        Which of them.
    stand_in
        The corpus's name, where the model was trained on another one, which is not known.

    Raises
    ------
    ValueError
        Where nothing is told of one.
    """
    if untold := [name for name in datasets if name not in overlap]:
        message = (
            f"overlap.json does not tell of {', '.join(untold)}: it is of other data sets than the"
            " config's; delete it and run again"
        )
        raise ValueError(message)
    asked = {name: overlap[name] for name in datasets}
    seen = [
        f"{found['shared']:,} of the {plural(found['cells'], 'cell')} of **{name}** "
        f"(in {', '.join(found['shared_with'])})"
        for name, found in asked.items()
        if found["shared"]
    ]
    gaps = list(_say_unchecked(asked))
    which = " that could be compared" if gaps else ""
    said = [
        f"The corpus has {'; '.join(seen)}: a model that was pretrained on it has seen their "
        "counts."
        if seen
        else f"The corpus has none of the cells of {', '.join(datasets)}{which}."
    ]
    same = sorted({name for found in asked.values() for name in found["datasets"]})
    if same:
        said.append(f"It has data sets of the same name: {', '.join(same)}.")
    return " ".join(filter(None, [say_stand_in(stand_in), *said, *gaps]))


def _say_unchecked(overlap: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Say of which cells nobody can tell whether the corpus has them."""
    unchecked = [
        f"{found['unchecked']:,} of the {plural(found['cells'], 'cell')} of **{name}**"
        for name, found in overlap.items()
        if found["unchecked"]
    ]
    if unchecked:
        yield (
            f"It could not be told for {'; '.join(unchecked)}, which express too few of the "
            "corpus's genes."
        )
    divided = max((found["divided_in_corpus"] for found in overlap.values()), default=0)
    if divided:
        yield (
            f"Nothing could be compared with {plural(divided, 'cell')} of the corpus, whose counts "
            "were divided by gene lengths."
        )


def say_training(training: Mapping[str, Any]) -> str:
    """Say in Markdown what a model was trained on, and how it compares with simple predictors.

    Parameters
    ----------
    training
        `training.json` of a model folder that `pretrain` wrote.
    """
    judged = judged_split(training)
    cells = {"heldout": "held-out cells", "seen": "training cells (no cells are held out)"}[judged]
    error = training["errors"][judged]["gep"]
    verdicts = [
        compare(error, training["baselines"][name][judged]["gep"], title)
        for name, title in PREDICTORS.items()
    ]
    return (
        f"The model has {training['parameters']:,} parameters and read {training['cells']:,} cells "
        f"in {training['steps']:,} steps. On {cells}, its error on the genes that it was not told "
        f"is {', and '.join(verdicts)}."
    )


def judged_split(training: Mapping[str, Any]) -> str:
    """Which cells a model is judged on: "heldout" where there are any, else "seen"."""
    return "heldout" if "heldout" in training["errors"] else "seen"
