"""Write a model in the published format."""

from scgpt_core.checkpoint import export_published, load_checkpoint
from scgpt_core.runs import start_logging


def main(model_folder: str, folder: str) -> None:
    export_published(load_checkpoint(model_folder, device="cpu"), folder)


start_logging(snakemake.log[0])
main(**snakemake.params)
