"""What is written for people: the pages, their blocks of code, their links."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "resources/*.md")
    for path in ROOT.glob(pattern)
    if "_build" not in path.parts
)

_BLOCK = re.compile(r"^(`{3,})(.*)\n((?:.*\n)*?)\1$", re.MULTILINE)
_OPTIONS = re.compile(r"\A(?:---\n(?:.*\n)*?---\n|(?::.*\n)+)")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_blocks(*languages: str) -> list[Block]:
    """Blocks of these languages on all pages; of cells of notebooks, "{code-cell}", the code."""
    blocks = []
    for page in PAGES:
        text = page.read_text()
        for found in _BLOCK.finditer(text):
            language = found[2].split(" ")[0]
            if language in languages:
                line = text.count("\n", 0, found.start()) + 1
                blocks.append(Block(page, line, language, _OPTIONS.sub("", found[3])))
    return blocks


def read_prose(page: Path) -> str:
    """A page without its blocks."""
    return _BLOCK.sub("", page.read_text())


def read_commands() -> list[tuple[Block, str]]:
    """Commands of a shell, one by one, without comments."""
    return [
        (block, command.strip())
        for block in read_blocks("sh")
        for line in block.text.replace("\\\n", " ").splitlines()
        for command in re.sub(r"(^|\s)#.*", "", line).split("&&")
        if command.strip()
    ]
