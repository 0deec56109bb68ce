"""The package as pip installs it: light to import, each room with its extra, one version."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import scgpt_core

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {
    "faiss": "faiss-cpu",
    "llvmlite": "numba",
    "nbformat": "nbconvert",
    "sklearn": "scikit-learn",
    "traitlets": "nbconvert",
}
"""Packages whose modules are called otherwise, or that another one always brings."""
OPTIONAL = {"huggingface_hub"}
"""Modules that are done without where they are missing; a test of checkpoints does."""
ROOMS = {
    "": [
        "config", "data.identity", "data.order", "data.vocab", "keys", "portable", "runs", "slurm",
    ],
    "train": ["batch", "checkpoint", "data.loader", "device", "model", "published", "train"],
    "tasks": [
        "cell_cycle", "findings", "imputation_metrics", "index", "label_metrics", "metrics",
        "neighbours", "networks", "perturbation", "plots", "tasks",
    ],
    "benchmark": ["baselines", "classifiers", "joint_baselines", "scores"],
    "pipeline": ["data", "report"],
}  # fmt: skip
"""Modules and folders of the package by the extra that they need, "" for none."""


def find(module: str) -> Path | None:
    """The file of a module of this package, or of a package's __init__."""
    base = ROOT.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def list_modules(name: str) -> list[str]:
    """The module of this name in the package, or all modules of a folder."""
    base = ROOT / "scgpt_core" / name.replace(".", "/")
    paths = sorted(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
    return [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in paths]


def imported(path: Path) -> set[str]:
    """Modules that a file imports when it is imported itself."""
    modules: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        for node in ast.iter_child_nodes(todo.pop()):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None, f"{path}: a relative import"
                modules |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
            elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not (
                isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            ):
                todo.append(node)
    return modules


def outside(modules: list[str]) -> set[str]:
    """Top-level modules of other packages that these need, directly or by others of ours."""
    found, seen, todo = set(), set(), [m.removesuffix(".__init__") for m in modules]
    while todo:
        module = todo.pop()
        path = find(module)
        if module in seen or path is None:
            continue
        seen.add(module)
        for name in imported(path):
            top = name.split(".")[0]
            if top == "scgpt_core":
                todo += [name, name.rpartition(".")[0]]
            elif top not in sys.stdlib_module_names:
                found.add(top)
    return found - OPTIONAL


def needs(extra: str) -> set[str]:
    """Names of the packages of an extra, and of those that it builds on."""
    packages: set[str] = set()
    todo = [*PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] if extra else [])]
    while todo:
        name, inner = re.match(r"([\w.-]+)(?:\[(\w+)\])?", todo.pop()).groups()
        if inner:
            todo += PROJECT["optional-dependencies"][inner]
        packages.add(name)
    return packages


@pytest.mark.parametrize("extra", ROOMS)
def test_a_room_imports_what_its_extra_installs(extra: str) -> None:
    modules = [module for name in ROOMS[extra] for module in list_modules(name)]
    assert modules
    packages = {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in outside(modules)}
    assert packages - needs(extra) == set()


def test_the_rooms_are_the_whole_package() -> None:
    listed = {module for names in ROOMS.values() for name in names for module in list_modules(name)}
    assert set(list_modules("")) - listed == {"scgpt_core.__init__"}


def test_importing_the_package_takes_no_time_and_brings_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import scgpt_core, scgpt_core.keys;"
        "print(time.perf_counter() - start, *{'numpy', 'pydantic', 'torch'} & set(sys.modules))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)  # the least of three: a busy machine is no fault of ours
    ]
    said = [run.stdout.split() for run in runs]
    assert min(float(words[0]) for words in said) < 0.5
    assert all(len(words) == 1 for words in said), said


def test_there_is_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d[\w.]*)\] - (\d{4}-\d\d-\d\d)$", changes, re.MULTILINE)
    assert PROJECT["version"] == scgpt_core.__version__ == citation["version"] == released[0][0]
    assert str(citation["date-released"]) == released[0][1]
    assert citation["license"] == PROJECT["license"]
