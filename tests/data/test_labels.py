from pathlib import Path

import numpy as np

from scgpt_core.data.labels import harmonise_labels


def test_labels_of_all_data_sets_become_one_name(resources: Path) -> None:
    labels = ["CD19+ B", "B cells", "B", "B cell", "A549", "unknown", np.nan, None]
    names, ids = harmonise_labels(labels, resources / "cell_types.tsv")
    assert names == ["B cell"] * 4 + ["A549"] + ["unknown"] * 3
    assert ids == ["CL:0000236"] * 4 + ["unknown"] * 4
