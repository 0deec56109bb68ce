"""No link of a page is dead, and no file that it names is gone; addresses have their form."""

import re
from pathlib import Path

import pytest
from pages import PAGES, ROOT, read_prose

_LINK = re.compile(r"\]\(([^()\s]+(?:\([^()\s]*\)[^()\s]*)*)\)")
_ADDRESS = re.compile(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/\S*)?")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_NAMED = re.compile(
    r"`((?:benchmarks|config|docs|envs|profiles|resources|rules|scgpt_core|tests|workflow_scripts)/[^`\s]+)`"
)
_INCLUDED = re.compile(r"^```\{include\} (\S+)\n", re.MULTILINE)
_PLACEHOLDER = re.compile(r"[A-Z]{4,}|[{*<]")
_MADE = ("docs/_build/", "resources/published/")


def anchors(page: Path) -> set[str]:
    """What a link can point at: headings as forges and Sphinx write them."""
    headings = _HEADING.findall(read_prose(page))
    here = {re.sub(r"[^\w\- ]", "", name.strip().lower()).replace(" ", "-") for name in headings}
    included = (page.parent / name for name in _INCLUDED.findall(page.read_text()))
    return here.union(*map(anchors, included))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(re.sub(r"`[^`\n]*`", "", read_prose(page))):
        if "://" in link:
            assert _ADDRESS.fullmatch(link), f"{page.name}: {link} is no address"
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else page.parent / path
        assert target.is_file(), f"{page.name}: {link} is not there"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    named = _NAMED.findall(read_prose(page))
    absent = [
        path
        for path in named
        if not ((ROOT / path).exists() or _PLACEHOLDER.search(path) or path.startswith(_MADE))
    ]
    assert absent == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading, of `this`\n\n[there](other.md)\n")
    assert anchors(page) == {"a-heading-of-this"}
    with pytest.raises(AssertionError, match=r"other\.md is not there"):
        test_links_lead_somewhere(page)
