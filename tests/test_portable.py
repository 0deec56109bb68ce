"""Portable numerics, held to a processor of another maker, which QEMU emulates without AVX512."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from tiny_model import save_tiny_model

from scgpt_core.config import DatasetRow, IntegrationSettings
from scgpt_core.model.int8 import multiplies_int8
from scgpt_core.portable import PINNED, is_pinned, pin_numerics
from scgpt_core.runs import read_json, sha256
from scgpt_core.tasks.datasets import prepare_dataset

ROOT = Path(__file__).parents[1]
EMULATOR = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
SETTINGS = IntegrationSettings.model_validate(
    {"n_genes": 100, "epochs": 1, "trainer": {"batch_cells": 24, "device": "cpu"}}
)


@pytest.mark.skipif(not multiplies_int8(), reason="needs AVX2")
def test_what_is_pinned_reaches_the_processes_that_are_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in PINNED:
        monkeypatch.setenv(name, "")
    assert not is_pinned()
    pin_numerics()
    assert is_pinned()
    says = "import numpy, torch; print(torch.backends.cpu.get_cpu_capability()); "
    says += "print(numpy._core._multiarray_umath.__cpu_features__['X86_V4'])"
    done = subprocess.run([sys.executable, "-c", says], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["AVX2", "False"]


def test_another_architecture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    with pytest.raises(ValueError, match="portable_numerics: true needs an x86-64 processor"):
        pin_numerics()


@pytest.mark.slow
@pytest.mark.skipif(EMULATOR is None, reason="needs QEMU (apt-get install qemu-user-static)")
def test_a_processor_of_another_maker_fine_tunes_to_the_same_bytes(tmp_path: Path) -> None:
    source, dataset = tmp_path / "source.h5ad", tmp_path / "cells.h5ad"
    cells = ad.read_h5ad(ROOT / "resources/cells/pbmc_symphony_3tech.h5ad")[::15]
    cells.write_h5ad(source)
    row = DatasetRow(dataset="cells", path=str(source), batch_key="batch", label_key="cell_type")
    prepare_dataset(row, source, dataset, cell_types=ROOT / "resources/cell_types.tsv")
    model = save_tiny_model(tmp_path / "tiny", cells.var_names, n_layers=2, width=64)

    def finetune(name: str, *emulator: str, **environment: str) -> Path:
        folder = tmp_path / name
        script = [sys.executable, ROOT / "workflow_scripts/finetune.py", "integration"]
        paths = [dataset, model, folder / "out", folder / "state", folder / "log"]
        options = ["--settings", SETTINGS.model_dump_json(), "--init", "pretrained"]
        subprocess.run(
            [*emulator, *script, *paths, *options, "--seed", "5", "--threads", "1"],
            env=os.environ | environment,
            check=True,
            capture_output=True,
        )
        assert read_json(folder / "out/run.json")["environment"]["portable_numerics"] == bool(
            environment
        )
        return folder / "out"

    assert EMULATOR is not None
    other = "Haswell" if "AuthenticAMD" in Path("/proc/cpuinfo").read_text() else "EPYC-Rome"
    here, there = finetune("here", **PINNED), finetune("there", EMULATOR, "-cpu", other, **PINNED)
    weights = "model/model.safetensors"
    assert sha256(here / weights) == sha256(there / weights)
    embeddings = [ad.read_h5ad(out / "embedding.h5ad").obsm["X_emb"] for out in (here, there)]
    np.testing.assert_array_equal(*embeddings)
    assert sha256(finetune("unpinned") / weights) != sha256(here / weights)
