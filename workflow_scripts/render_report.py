"""Run a notebook of the report on this run's artefacts and render it as a page."""

from collections.abc import Mapping
from typing import Any

from scgpt_core.report import render_page
from scgpt_core.runs import start_logging


def main(
    template: str,
    notebook: str,
    html: str,
    *,
    parameters: Mapping[str, Any],
    pages: Mapping[str, str],
) -> None:
    render_page(template, notebook, html, parameters=parameters, pages=pages)


start_logging(snakemake.log[0])
main(
    snakemake.input.template,
    snakemake.output.notebook,
    snakemake.output.html,
    **snakemake.params,
)
