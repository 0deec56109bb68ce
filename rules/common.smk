# What every stage shares: the typed config, its tables, wildcard constraints, and helpers.
import os
import sys
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

from scgpt_core.config import Architecture, leave_out_missing, load_config
from scgpt_core.portable import pin_numerics
from scgpt_core.runs import sha256
from scgpt_core.slurm import cancel_left_jobs

ROOT = Path(workflow.basedir)
# Scripts and torchrun find the package also where it is not installed (conda environments).
# So do the programs of this Python (torchrun) where its environment was not activated.
for variable, folder in (("PYTHONPATH", ROOT), ("PATH", Path(sys.executable).parent)):
    os.environ[variable] = os.pathsep.join(
        filter(None, [str(folder), os.environ.get(variable)])
    )

CFG, TABLES = load_config(config, ROOT)
if DeploymentMethod.CONDA not in workflow.deployment_settings.deployment_method:
    CFG = leave_out_missing(CFG, TABLES)
if CFG.portable_numerics:
    pin_numerics()
BENCHMARKS = CFG.benchmark.by_task


include: "helpers/params.smk"
include: "helpers/training.smk"


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


def get_names(names):
    """Names as a regular expression for a wildcard; one that nothing matches where there is none."""
    return "|".join(names) or "(?!)"


def get_model_files(model="{model}"):
    """What a model is loaded from."""
    return multiext(
        f"results/models/{model}/", "model.safetensors", "config.json", "vocab.json"
    )


def get_model_folder(wildcards, input):
    """The folder of the model whose files are the input `model`."""
    return str(Path(input.model[0]).parent)


def get_weights_mb(architecture):
    """Size of a model of this architecture: embeddings and layers, without heads."""
    width, ffn = architecture.width, architecture.ffn_width
    layer = 4 * width**2 + 2 * width * ffn
    return round(4 * (60_697 * width + architecture.n_layers * layer) / 1e6)


def get_methods(rule_name, *, task="integration", extra=False):
    """Names of the methods that a rule runs, as a regular expression for its `method` wildcard.

    With `extra` those that need a package beyond the core lock, else those that do not.
    """
    return get_names(
        row.method
        for row in TABLES.methods.values()
        if (row.rule, row.task, bool(row.requires)) == (rule_name, task, extra)
    )


def get_benchmarked(task):
    """Names of the methods that the config asks for, of one task."""
    return [name for name in CFG.benchmark.methods if TABLES.methods[name].task == task]


# What memory grows with where a model is: its weights, in MB of float32 at the published vocabulary's
# size. docs/cluster.md has what was measured; a test holds the requests to it.
MODEL_MB = get_weights_mb(
    Architecture() if CFG.model in CFG.checkpoints else CFG.pretrain.architecture
)


def get_mem_mb(megabytes):
    """A memory request that grows with every attempt; Snakemake alone takes 200 MB in a job."""

    def mem_mb(wildcards, attempt):
        return max(1000, megabytes) * attempt

    return mem_mb


def get_group(name, device):
    """A group for jobs that several run as one on a cluster; none for those that take a GPU each."""
    return None if device == "cuda" else name


def get_runtime(minutes):
    """A time request, in minutes, that grows with every attempt."""

    def runtime(wildcards, attempt):
        return minutes * attempt

    return runtime
