"""Python on the pages, tutorials too: what is imported exists, and takes what it is called with."""

import ast
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from pages import Block, read_blocks

BLOCKS = read_blocks("python", "{code-cell}")


def read_imports(tree: ast.AST) -> dict[str, Any]:
    """Objects by the names that a block gives them."""
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                names[alias.asname or alias.name] = getattr(module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name] = importlib.import_module(alias.name)
    return names


def find(node: ast.expr, names: dict[str, Any]) -> Callable[..., Any] | None:
    """The function of ours that a call calls, where the block imported it."""
    if isinstance(node, ast.Attribute):
        owner = find(node.value, names) if isinstance(node.value, ast.Name) else None
        found = getattr(owner, node.attr) if inspect.ismodule(owner) else None
    else:
        found = names.get(node.id) if isinstance(node, ast.Name) else None
    ours = inspect.ismodule(found) or str(getattr(found, "__module__", "")).startswith("scgpt_core")
    return found if ours else None


def check(source: str, names: dict[str, Any]) -> None:
    """Bind the arguments of every call of a function of ours to its signature."""
    code = "\n".join(line for line in source.splitlines() if not line.startswith("%"))
    tree = ast.parse(code)
    names.update(read_imports(tree))
    for node in ast.walk(tree):
        function = find(node.func, names) if isinstance(node, ast.Call) else None
        if function is None or inspect.isclass(function):
            continue
        keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
        if len(keywords) == len(node.keywords):  # of `**settings` nobody knows before
            inspect.signature(function).bind(*node.args, **keywords)


@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS}), ids=lambda p: p.stem)
def test_code_calls_what_there_is(page: Any) -> None:
    names: dict[str, Any] = {}
    for block in BLOCKS:
        if block.page == page:
            try:
                check(block.text, names if block.language == "{code-cell}" else {})
            except (AttributeError, ImportError, SyntaxError, TypeError) as error:
                pytest.fail(f"{block}: {error}")


def test_a_call_with_a_wrong_argument_is_found() -> None:
    block = "from scgpt_core.runs import sha256\nsha256('file', chunk=3)\n"
    with pytest.raises(TypeError, match="chunk"):
        check(block, {})
    assert isinstance(BLOCKS[0], Block)
