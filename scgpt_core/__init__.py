"""A reproducible pipeline for single-cell foundation models.

The package knows nothing of Snakemake: it can be used from a notebook as well as from the rules.
Importing it imports nothing heavy; take what you need from its modules.
"""

from importlib.metadata import version

__version__ = version("scgpt-core")
