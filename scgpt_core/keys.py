"""Names of the columns that the stages pass to each other, each written down once."""

from typing import Final

# obs of the Census schema
SOMA_JOINID: Final = "soma_joinid"
DATASET_ID: Final = "dataset_id"
DONOR_ID: Final = "donor_id"
ASSAY: Final = "assay"
CELL_TYPE: Final = "cell_type"
CELL_TYPE_ID: Final = "cell_type_ontology_term_id"
TISSUE_GENERAL: Final = "tissue_general"
DISEASE: Final = "disease"
IS_PRIMARY_DATA: Final = "is_primary_data"
SUSPENSION_TYPE: Final = "suspension_type"
RAW_SUM: Final = "raw_sum"
NNZ: Final = "nnz"

# var of the Census schema
FEATURE_ID: Final = "feature_id"
FEATURE_NAME: Final = "feature_name"
FEATURE_LENGTH: Final = "feature_length"
N_CELLS: Final = "n_cells"
"""In how many cells of the file the gene is found (added by `download_partition`)."""

# obs of a prepared benchmark data set (`prepare_dataset` renames the user's columns to these)
BATCH: Final = "batch"
LABEL: Final = "label"

# obsm of every embedding file
EMBEDDING: Final = "X_emb"

# what a prepared data set of several modalities has too
RNA: Final = "rna"
MODALITIES: Final = (RNA, "protein", "atac")
"""Their places are their codes in models."""
PANEL: Final = "panel"
"""obs column: which features beside RNA a cell was measured for."""
IMPUTED: Final = "imputed"
"""obsm of an embedding file of several modalities: what a cell was not measured for."""
WITHHELD: Final = "withheld"
"""obs column of such a file: whether all but the RNA of a cell was withheld from the method."""

# a table of predicted labels, beside `batch` and `label`
CELL: Final = "cell"
LABEL_SHARE: Final = "label_share"
"""Share of the reference's labels that was learned from."""
PREDICTED: Final = "predicted"
CONFIDENCE: Final = "confidence"
IS_UNKNOWN: Final = "unknown"
PROBABILITY: Final = "probability: "
"""Followed by a class."""

UNKNOWN: Final = "unknown"
"""The label of a cell whose type nobody has given; never a class to predict or to score."""

# special tokens
PAD: Final = "<pad>"
CLS: Final = "<cls>"
EOC: Final = "<eoc>"
SPECIAL_TOKENS: Final = (PAD, CLS, EOC)
