"""Fine-tune a model on the labels of a data set's reference, and label its query."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from scgpt_core.config import AnnotationSettings
from scgpt_core.runs import start_logging
from scgpt_core.tasks.annotation import annotate_dataset


def main(
    dataset: str,
    predictions: str,
    *,
    model_folder: str,
    query: Sequence[str],
    settings: Mapping[str, Any],
    init: Literal["pretrained", "random"],
    seed: str,
    state_folder: str,
    threads: int,
) -> None:
    annotate_dataset(
        dataset,
        model_folder,
        Path(predictions).parent,
        query=query,
        state_folder=state_folder,
        settings=AnnotationSettings.model_validate(settings),
        init=init,
        seed=int(seed),
        threads=threads,
    )


start_logging(snakemake.log[0])
files = (snakemake.input.dataset, snakemake.output.predictions)
main(*files, threads=snakemake.threads, **snakemake.params)
