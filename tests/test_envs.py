"""The conda environment, the lock and pyproject.toml speak of the same packages."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def canonical(name: str) -> str:
    """As package indexes compare names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(lines: list[str]) -> dict[str, str]:
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins), "every line of the lock is NAME==VERSION"
    return {canonical(name): version for name, version in pins}


def read_lock() -> dict[str, str]:
    return read_pins((ROOT / "envs/lock.txt").read_text().splitlines())


def read_conda(name: str) -> dict[str, str]:
    environment = yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == ["python=3.11", "pip"]
    return read_pins(pip["pip"])


def read_extra(name: str) -> set[str]:
    """What an extra needs, with the package's own dependencies and the extras that it names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed, todo = set(), [*project["dependencies"], *extras[name]]
    while todo:
        package, extra = re.match(r"([\w.-]+)(?:\[(\w+)\])?", todo.pop()).groups()
        if package == project["name"]:
            todo += extras[extra]
        else:
            needed.add(canonical(package))
    return needed


def test_the_conda_environment_pins_what_the_lock_pins() -> None:
    assert read_conda("pipeline") == read_lock()


def test_other_environments_differ_from_the_lock_in_their_own_packages_alone() -> None:
    lock, pins = read_lock(), read_conda("baselines")
    assert {name: lock[name] for name in pins.keys() & lock.keys()}.items() <= pins.items()


def test_no_pin_is_of_one_build() -> None:
    assert not [version for version in read_lock().values() if "+" in version]


def test_the_environment_of_celltypist_differs_from_the_lock_in_scikit_learn_alone() -> None:
    environment = yaml.safe_load((ROOT / "envs/celltypist.yaml").read_text())
    pins, lock = read_pins(environment["dependencies"][-1]["pip"]), read_lock()
    differing = {name for name in pins.keys() & lock.keys() if pins[name] != lock[name]}
    assert differing == {"scikit-learn"}
    assert "celltypist" in pins


def test_the_lock_has_every_direct_dependency() -> None:
    assert read_extra("pipeline") | read_extra("dev") <= read_lock().keys()


def test_the_tools_of_the_docs_are_pinned_apart() -> None:
    pins, lock = read_pins((ROOT / "envs/docs.txt").read_text().splitlines()), read_lock()
    assert read_extra("docs") - read_lock().keys() <= pins.keys()
    assert not pins.keys() & lock.keys(), "`make docs` installs them beside the lock"
