"""The graph as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "tests/smoke/config.yaml"


def snakemake(
    folder: Path, *arguments: str, configfile: Path | None = SMOKE
) -> subprocess.CompletedProcess[str]:
    """Run the graph into `folder`, as a user would from another working directory.

    Small jobs are sooner done two at once than one after another with two threads.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(folder), "--cores", "2", "--max-threads", "1"]
    if configfile is not None:
        command += ["--configfile", str(configfile)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
    )


def assert_ran(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


def finetune_in_two_processes(
    task: str,
    dataset: Path,
    model_folder: Path,
    folder: Path,
    *more: str,
    settings: BaseModel,
    threads: int,
) -> None:
    """Run the job of a fine-tuning as its rule does, in two processes; `out` in the folder has it.

    The pretrained model is fine-tuned, with seed 5.
    """
    scripts = ROOT / "workflow_scripts"
    launcher = (scripts / "torchrun.sh", "1", "2", str(threads), scripts / "finetune.py")
    paths = (dataset, model_folder, folder / "out", folder / "state", folder / "log")
    options = ("--settings", settings.model_dump_json(), "--init", "pretrained", "--seed", "5")
    subprocess.run(
        [*launcher, task, *paths, *options, "--threads", str(threads), *more],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        check=True,
        timeout=240,
    )
