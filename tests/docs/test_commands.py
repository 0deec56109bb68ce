"""Every command of README and docs is tried: by the dry run of its own tool, where it is long."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import PAGES, ROOT, Block, read_blocks, read_commands, read_prose

from scgpt_core.config import load_config

COMMANDS = read_commands()
LEFT_TO_THE_SYSTEM = {"cat", "cd", "git", "sha256sum", "tmux"}
_BEFORE = re.compile(r"\A(?:\w+=\S+ )*")
_SNAKEMAKE = ".venv/bin/snakemake"
_DRY_RUNS = """
import json, multiprocessing, sys
from snakemake.cli import main

processes = multiprocessing.get_context("fork")  # what takes seconds is imported once
failed = []
for argv in json.load(sys.stdin):
    process = processes.Process(target=main, args=(argv,))
    process.start()
    process.join()
    if process.exitcode:
        failed.append(argv)
print(json.dumps(failed), file=sys.stderr)
"""
"""Dry runs of snakemake one after another, and on stderr's last line those that failed."""


def of_tool(name: str) -> Iterator[tuple[Block, list[str]]]:
    """Words behind the tool of each command that calls it."""
    for block, command in COMMANDS:
        words = shlex.split(_BEFORE.sub("", command))
        if words[0] == name:
            yield block, words[1:]


def test_every_command_has_a_check() -> None:
    checked = {"make", "export", _SNAKEMAKE, ".venv/bin/pip", ".venv/bin/python"}
    tools = {shlex.split(_BEFORE.sub("", command))[0] for _, command in COMMANDS}
    assert {"make", _SNAKEMAKE} <= tools
    assert tools - checked <= LEFT_TO_THE_SYSTEM


def make_targets() -> set[str]:
    """What make is asked for, in blocks and in the text."""
    asked = {word for _, words in of_tool("make") for word in words if "=" not in word}
    for page in PAGES:
        asked |= set(re.findall(r"`(?:\w+=\S+ )*make ([a-z-]+)", read_prose(page)))
    return asked


def test_make_knows_its_targets() -> None:
    targets = make_targets()
    assert {"demo", "test", "docs", "bench-embed"} <= targets
    benchmarks = {target for target in targets if target.startswith("bench-")}
    for target in benchmarks - {"bench-"}:
        name = target.removeprefix("bench-").replace("-", "_")
        assert (ROOT / f"benchmarks/bench_{name}.py").is_file(), target
    done = subprocess.run(
        ["make", "--dry-run", *sorted(targets - {"bench-"})],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def write_configs(folder: Path) -> None:
    """Config files that a page tells the reader to write: their name stands in the first line."""
    for block in read_blocks("yaml"):
        named = re.match(r"# (\w+\.yaml)$", block.text.splitlines()[0])
        if named:
            (folder / named[1]).write_text(block.text.replace("/path/to", str(folder)))


def write_checkpoint(folder: Path) -> None:
    """Write files of the names of a published checkpoint that a page tells the reader to have."""
    folder.mkdir()
    for name in ("args.json", "vocab.json", "best_model.pt"):
        (folder / name).touch()


def test_snakemake_plans_what_it_is_asked_for(tmp_path: Path) -> None:
    from snakemake.cli import get_argument_parser

    write_configs(tmp_path)
    write_checkpoint(tmp_path / "scGPT_human")
    parser = get_argument_parser()
    asked: dict[tuple[str, ...], set[str]] = {}  # targets by options: each plan takes a second
    for block, words in of_tool(_SNAKEMAKE):
        words = [str(tmp_path / word) if (tmp_path / word).is_file() else word for word in words]
        words = [word.replace("/path/to", str(tmp_path)) for word in words]
        args = parser.parse_args(words)
        if "--sdm" in words:  # conda would have to be there
            continue
        options = [word for word in words if word not in {"--", "--dry-run", *args.targets}]
        if args.directory:
            at = options.index("--directory")
            del options[at : at + 2]
        runs_nothing = args.dryrun or args.unlock or args.report or args.conda_create_envs_only
        assert args.cores or args.profile or runs_nothing, f"{block}: {words} lacks --cores"
        options += [] if args.cores or args.profile else ["--cores", "2"]
        asked.setdefault(tuple(options), set()).update(args.targets or ["all"])
    assert len(asked) > 5
    plan = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    plan += ["--dry-run", "--quiet", "all"]
    runs = [[*plan, *options, "--", *sorted(targets)] for options, targets in asked.items()]
    done = subprocess.run(
        [sys.executable, "-c", _DRY_RUNS],
        input=json.dumps(runs),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == "[]", done.stdout[-4000:] + done.stderr[-4000:]


def test_variables_that_are_exported_are_read() -> None:
    read = (ROOT / "profiles/slurm/profile.v9+.yaml").read_text()
    read += (ROOT / "docs/cluster.md").read_text()  # a table has those of the plugin
    names = [word.split("=")[0] for _, words in of_tool("export") for word in words]
    assert names
    assert [name for name in names if name not in read] == []


def test_extras_that_are_installed_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    asked = [
        name
        for page in PAGES
        for names in re.findall(r"pip install (?:-e )?'\.\[([\w,]+)\]'", page.read_text())
        for name in names.split(",")
    ]
    assert asked
    assert set(asked) <= extras.keys()


def test_programs_of_python_know_their_options() -> None:
    spoken = [words for _, words in of_tool(".venv/bin/python")]
    for page in PAGES:
        prose = read_prose(page)
        spoken += [shlex.split(c) for c in re.findall(r"`python (-m benchmarks[^`]+)`", prose)]
    assert spoken
    for words in spoken:
        assert words[0] == "-m", words
        source = (ROOT / f"{words[1].replace('.', '/')}.py").read_text()
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in source, f"{words[1]} knows no {option}"


@pytest.mark.parametrize("block", read_blocks("yaml"), ids=str)
def test_settings_are_valid(block: Block) -> None:
    asked = yaml.safe_load(block.text)
    if "partitions" in asked:  # of the Slurm plugin
        return
    base = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    load_config(merge(base, asked), ROOT)


def merge(base: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """As snakemake puts one config file over another."""
    merged = dict(base)
    for key, value in asked.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if both else value
    return merged
