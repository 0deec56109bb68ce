"""Reference mapping: an index of a corpus's embeddings, and its labels' transfer to queries."""

from scgpt_core.index.build import build_index
from scgpt_core.index.embeddings import Embeddings, write_embeddings
from scgpt_core.index.ontology import Ontology, read_ontology
from scgpt_core.index.reference import Reference, open_index
from scgpt_core.index.transfer import LabelTransfer, map_query

__all__ = [
    "Embeddings",
    "LabelTransfer",
    "Ontology",
    "Reference",
    "build_index",
    "map_query",
    "open_index",
    "read_ontology",
    "write_embeddings",
]
