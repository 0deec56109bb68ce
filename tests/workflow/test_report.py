"""A page is the notebook's own run: self-contained, of this interpreter, whole or not there."""

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import papermill
import pytest

from scgpt_core.report import render_page

NOTEBOOKS = Path(__file__).parents[2] / "workflow_scripts/notebooks"
PAGES = {"summary": "Summary", "qc": "Quality control"}


def write_notebook(folder: Path, *sources: str) -> Path:
    """Write a notebook beside a copy of the layout: its first cell is tagged `parameters`."""
    (folder / "page").symlink_to(NOTEBOOKS / "page")
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{i}",
            "metadata": {"tags": ["parameters"] if i == 0 else [], "alt": "a picture"},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for i, source in enumerate(sources)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, "title": "A page"}
    path = folder / "summary.ipynb"
    path.write_text(
        json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})
    )
    return path


def render(template: Path, folder: Path, **parameters: Any) -> str:
    notebook, html = folder / "out/summary.ipynb", folder / "out/summary.html"
    render_page(template, notebook, html, parameters=parameters, pages=PAGES)
    return html.read_text()


def test_a_page_holds_results_pictures_and_links_and_nothing_from_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # the kernel is this interpreter all the same
    template = write_notebook(
        tmp_path,
        "number = 1",
        "%matplotlib inline\nfrom IPython.display import display\nfrom scgpt_core import plots\n"
        "display(plots.plot_funnel({'all cells': number}))",
        "import sys, warnings\nwarnings.warn('look out')\nprint(sys.executable)\nnumber + 1",
    )
    with caplog.at_level(logging.WARNING):
        html = render(template, tmp_path, number=41)
    assert '<img alt="a picture" src="data:image/png;base64,' in html
    assert "<pre>42</pre>" in html
    assert f"<pre>{sys.executable}" in html
    assert '<a aria-current="page" href="summary.html">Summary</a>' in html
    assert '<a href="qc.html">Quality control</a>' in html
    assert not re.search(r"(src|href)=\"(https?:)?//", html)
    assert "UserWarning" not in html
    assert "UserWarning: look out" in caplog.text
    assert str(tmp_path) not in html + (tmp_path / "out/summary.ipynb").read_text()


def test_a_cell_that_fails_leaves_no_page(tmp_path: Path) -> None:
    template = write_notebook(tmp_path, "", "raise ValueError('no such cells')")
    with pytest.raises(papermill.PapermillExecutionError, match="no such cells"):
        render(template, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs_and_takes_parameters(path: Path) -> None:
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert [cell["metadata"].get("tags") for cell in code].count(["parameters"]) == 1
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    drawing = [cell for cell in code if "plots.plot_" in "".join(cell["source"])]
    assert all(cell["metadata"]["alt"] for cell in drawing), "pictures say what they show"


def test_generation_is_told_in_as_many_rounds_as_were_tried(tmp_path: Path) -> None:
    """From the settings of the run: a single round need not be among them."""
    model, simple = "scGPT, 4 rounds", ("mean of the type", "real cell of the type")
    rows = [
        ("genes", predictor, "all", metric, 0.5)
        for predictor in (model, *simple)
        for metric in ("cell_correlation", "gene_error", "mixing")
    ]
    columns = ["prompt", "predictor", "cell_type", "metric", "value"]
    by_type = [(*row[:2], "B", *row[3:]) for row in rows if row[3] != "gene_error"]
    folder = tmp_path / "cells"
    folder.mkdir()
    pd.DataFrame(rows + by_type, columns=columns).to_parquet(folder / "scores.parquet")
    genes = [
        ("genes", predictor, gene, 20, error)
        for predictor, error in ((model, 1.0), (simple[0], 2.0), (simple[1], 3.0))
        for gene in ("CD3E", "NKG7")
    ]
    columns = ["prompt", "predictor", "gene", "cells", "error"]
    pd.DataFrame(genes, columns=columns).to_parquet(folder / "genes.parquet")
    run = {"settings": {"known_share": 0.25}, "cells": {"B": 20}}
    (folder / "run.json").write_text(json.dumps(run))
    seen = {"cells": 40, "shared": 0, "shared_with": {}, "unchecked": 0, "divided_in_corpus": 0}
    overlap = tmp_path / "overlap.json"
    overlap.write_text(json.dumps({"cells": seen | {"datasets": []}}))
    html = render(
        NOTEBOOKS / "generation.ipynb",
        tmp_path,
        generations=[str(folder / "scores.parquet")],
        overlap=str(overlap),
    )
    text = re.sub(r"<[^>]+>", "", html)
    assert "The gene prompt gives 25% of a cell" in text
    assert "the error of scGPT, 4 rounds is below that of the mean for 100% of 2 genes" in text


def test_the_summary_says_who_won_also_where_a_baseline_does(tmp_path: Path) -> None:
    rows = [
        ("integration", dataset, method, seed, metric, value + 0.01 * seed, 0.1)
        for dataset, method, value in (
            ("cellmix", "harmony", 0.8),
            ("cellmix", "scgpt", 0.7),
            ("unlabelled", "harmony", float("nan")),
            ("unlabelled", "scgpt", float("nan")),
        )
        for seed in range(3)
        for metric in ("avg_bio", "avg_batch", "overall", "scib_overall")
    ]
    columns = ["task", "dataset", "method", "seed", "metric", "value", "seconds"]
    pd.DataFrame(rows, columns=columns).to_parquet(tmp_path / "scores.parquet")
    manifest = {
        "corpus": "tiny",
        "n_cells": 90,
        "nnz": 900,
        "funnel": {"cells in": 100, "few genes": 10, "cells out": 90},
        "split": {"by": "donor_id", "heldout": [], "heldout_cells": 0},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    html = render(
        NOTEBOOKS / "summary.ipynb",
        tmp_path,
        manifest=str(tmp_path / "manifest.json"),
        scores=str(tmp_path / "scores.parquet"),
        tasks={
            "integration": {
                "methods": {
                    "harmony": {"title": "Harmony", "rule": "baseline"},
                    "scgpt": {"title": "scGPT", "rule": "embed", "init": "pretrained"},
                },
                "datasets": {"cellmix": "Five lines", "unlabelled": "Who knows"},
            },
            "annotation": {"methods": {}, "datasets": {}},
        },
    )
    text = re.sub(r"<[^>]+>", "", html)
    assert "The corpus tiny has 90 cells, 90.0% of the 100" in text
    assert "Harmony has the highest Overall (0.810, 0.785 to 0.835): a simple baseline wins" in text
    assert "0.100 above the best model, scGPT (0.710, 0.685 to 0.735)" in text
    assert "On unlabelled, Overall is not defined for any method: nothing to compare." in text
    assert "nan" not in text
    assert "Ranges are 95 % t intervals over 3 seeds." in text
    assert re.search(r"<td[^>]*>0\.810</td>", html)
