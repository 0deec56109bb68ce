"""Every module that people may call is on a page of the API."""

import re

from pages import ROOT

INTERNAL = {
    "scgpt_core.data.kernels",  # compiled loops, whose faces are binning and collate
    "scgpt_core.model.int8_kernels",  # the same, of model.int8
    "scgpt_core.tasks.imputation",  # the end of tasks.multiomics
}
"""Modules that other modules alone call."""

_MODULE = re.compile(r"^\.\. automodule:: (\S+)$", re.MULTILINE)


def read_documented() -> list[str]:
    return [
        name
        for page in sorted((ROOT / "docs/api").glob("*.md"))
        for name in _MODULE.findall(page.read_text())
    ]


def read_modules() -> set[str]:
    """Modules of the package, but for its packages, which stand for what they import."""
    paths = (ROOT / "scgpt_core").rglob("*.py")
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in paths
        if path.stem != "__init__"
    }


def test_every_module_is_on_a_page_itself_or_by_its_package() -> None:
    documented = read_documented()
    missing = {
        name
        for name in read_modules() - INTERNAL
        if name not in documented and name.rpartition(".")[0] not in documented
    }
    assert missing == set()


def test_no_module_is_on_two_pages_or_gone() -> None:
    documented, modules = read_documented(), read_modules()
    packages = {name.rpartition(".")[0] for name in modules}
    assert sorted(set(documented)) == sorted(documented)
    assert set(documented) <= modules | packages
    assert set(documented).isdisjoint(INTERNAL)
    assert modules >= INTERNAL
