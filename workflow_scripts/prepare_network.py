"""Choose the cells, genes and regulators that all networks of a data set are made of."""

from collections.abc import Mapping
from typing import Any

from scgpt_core.config import Contrast, NetworkSettings
from scgpt_core.networks.preparation import prepare_network
from scgpt_core.runs import start_logging


def main(
    output: str,
    *,
    files: Mapping[str, str],
    contrast: Mapping[str, Any],
    settings: Mapping[str, Any],
    seed: int,
) -> None:
    prepare_network(
        **files,
        output=output,
        contrast=Contrast.model_validate(contrast),
        settings=NetworkSettings.model_validate(settings),
        seed=seed,
    )


start_logging(snakemake.log[0])
main(
    snakemake.output[0],
    files=dict(snakemake.input.items()),
    **snakemake.params,
)
