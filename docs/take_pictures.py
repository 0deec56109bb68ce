"""Take the README's pictures out of the report of a run: `make pictures`."""

import base64
import sys
from pathlib import Path

import nbformat

PICTURES = {"ranking": "scores.png", "umap": "umap.png"}
"""File by the id of the notebook's cell; of several pictures of a cell, the first."""


def main(page: Path, folder: Path) -> None:
    """Write the pictures of an executed notebook to a folder."""
    for cell in nbformat.read(page, as_version=4).cells:
        if cell.id in PICTURES:
            pictures = [
                o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})
            ]
            (folder / PICTURES[cell.id]).write_bytes(base64.b64decode(pictures[0]))


main(Path(sys.argv[1]), Path(sys.argv[2]))
