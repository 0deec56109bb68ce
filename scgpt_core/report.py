"""Pages of the report: a notebook is run on artefacts and rendered as one HTML file."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbconvert import HTMLExporter
from traitlets.config import Config

from scgpt_core.runs import whole

logger = logging.getLogger(__name__)


def render_page(
    template: str | Path,
    notebook: str | Path,
    html: str | Path,
    *,
    parameters: Mapping[str, Any],
    pages: Mapping[str, str],
) -> None:
    """Run a notebook in the working directory and write it, executed, as .ipynb and .html.

    The kernel is this interpreter, wherever `PATH` leads. The page loads nothing from the network:
    pictures are in it, code is folded. Paths are as in `parameters`; those of the template and of
    the machine are left out; warnings go to the log.

    Parameters
    ----------
    template
        Notebook with a cell tagged `parameters`; the folder `page` beside it has the page's layout.
    notebook, html
        What is written, each whole or not at all.
    parameters
        Values for the notebook: strings, numbers, lists and dicts.
    pages
        Titles of all pages, by the name of their file, for the links at the top.

    Raises
    ------
    papermill.PapermillExecutionError
        With the cell and its traceback, where a cell fails; then nothing is written.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = papermill.execute_notebook(
            str(template),
            None,
            dict(parameters),
            kernel_name="python3",
            progress_bar=False,
            config=_kernel_config(folder),
        )
    for path in ("input_path", "output_path"):
        del done.metadata.papermill[path]
    _log_warnings(done)
    exporter = HTMLExporter(
        template_name="page", extra_template_basedirs=[str(Path(template).parent)]
    )
    body, _ = exporter.from_notebook_node(done, {"page": Path(html).stem, "pages": dict(pages)})
    with whole(notebook) as file:
        nbformat.write(done, file)
    with whole(html) as file:
        file.write_text(body)


def _log_warnings(notebook: nbformat.NotebookNode) -> None:
    """Move what the cells wrote to stderr from the page to the log."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.get("name") == "stderr":
                logger.warning("cell %s: %s", cell.id, output.text)
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]


def _kernel_config(folder: str) -> Config:
    """Keep the kernel in a folder of its own.

    It is spoken to through sockets there and not through ports of the machine, reads no settings of
    the user's own IPython, and leaves nothing in the home folder. It does not log: errors of cells
    come as messages, and what is left is the interrupt that precedes every shutdown.
    """
    arguments = [f"--ipython-dir={folder}", "--log-level=CRITICAL"]
    return Config(
        {
            "KernelManager": {"transport": "ipc", "connection_file": f"{folder}/kernel.json"},
            "NotebookClient": {"extra_arguments": arguments},
        }
    )
