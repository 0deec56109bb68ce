# What every stage shares: the typed config, its tables, wildcard constraints, and helpers.
import os
import sys
from pathlib import Path

from scgpt_core.config import load_config

ROOT = Path(workflow.basedir)
# Scripts and torchrun find the package also where it is not installed (conda environments).
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
)

# So do the programs of this Python (torchrun) where its environment was not activated.
os.environ["PATH"] = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ["PATH"]]
)

CFG, TABLES = load_config(config, ROOT)


wildcard_constraints:
    corpus="|".join(TABLES.corpora),
    model="|".join(TABLES.models),
    dataset="|".join(TABLES.datasets),
    method="|".join(TABLES.methods),
    partition=r"\d+",
    seed=r"\d+",


def get_path(path):
    """A path of the config or of a table: a URL or an absolute path as it is, else from the repository."""
    return path if "://" in str(path) else str(ROOT / path)


def get_methods(rule_name):
    """Names of the methods that a rule runs, as a regular expression for its `method` wildcard."""
    return "|".join(m.method for m in TABLES.methods.values() if m.rule == rule_name)


def get_mem_mb(megabytes):
    """A memory request that grows with every attempt."""

    def mem_mb(wildcards, attempt):
        return megabytes * attempt

    return mem_mb


def get_runtime(minutes):
    """A time request, in minutes, that grows with every attempt."""

    def runtime(wildcards, attempt):
        return minutes * attempt

    return runtime
