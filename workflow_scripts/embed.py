"""Embed a data set as the model is, without fine-tuning."""

from collections.abc import Mapping
from typing import Any, Literal

from scgpt_core.config import EmbedSettings
from scgpt_core.runs import start_logging
from scgpt_core.tasks.embedding import embed_dataset


def main(
    dataset: str,
    output: str,
    run_json: str,
    *,
    model_folder: str,
    init: Literal["pretrained", "random"],
    seed: str,
    embed: Mapping[str, Any],
) -> None:
    embed_dataset(
        dataset,
        model_folder,
        output,
        run_json,
        settings=EmbedSettings.model_validate(embed),
        init=init,
        seed=int(seed),
    )


start_logging(snakemake.log[0])
main(
    snakemake.input.dataset,
    snakemake.output.embedding,
    snakemake.output.run,
    **snakemake.params,
)
