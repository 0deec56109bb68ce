"""Say which cells of the data sets for tests are in the corpus."""

from collections.abc import Sequence
from pathlib import Path

from scgpt_core.data.corpus import open_corpus
from scgpt_core.data.overlap import check_dataset
from scgpt_core.runs import start_logging, write_json


def main(manifest: str, datasets: Sequence[str], output: str) -> None:
    corpus = open_corpus(Path(manifest).parent)
    write_json(output, {Path(path).stem: check_dataset(corpus, path) for path in datasets})


start_logging(snakemake.log[0])
main(snakemake.input.manifest, snakemake.input.datasets, snakemake.output[0])
