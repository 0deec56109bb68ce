"""Take in a published checkpoint that the user downloaded."""

from scgpt_core.checkpoint import import_model
from scgpt_core.runs import start_logging


def main(source: str, folder: str) -> None:
    import_model(source, folder)


start_logging(snakemake.log[0])
main(**snakemake.params)
