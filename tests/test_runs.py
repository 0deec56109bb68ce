"""Whole-or-nothing files, digests and run records."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scgpt_core.config import MethodRow, read_table
from scgpt_core.runs import (
    EARLIER,
    RECORDED_PACKAGES,
    digest,
    environment,
    read_json,
    run_record,
    sha256,
    whole,
    write_json,
)


def write_half(path: Path) -> None:
    with whole(path) as temporary:
        temporary.write_text("half")
        raise InterruptedError


def test_a_block_that_raises_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(InterruptedError):
        write_half(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]  # noqa: PTH208


def test_a_block_that_ends_replaces_files_and_folders(tmp_path: Path) -> None:
    with whole(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("new")
    for content in ("one", "two"):
        with whole(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert (tmp_path / "new/a.txt").read_text() == "new"
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["two"]


def test_a_killed_writer_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from scgpt_core.runs import whole\n"
        "with whole(sys.argv[1]) as t:\n"
        "    t.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"\.a\.partial-\d+\.txt", left.name)
    number = re.findall(r"\d+", left.name)[0]
    # What others write, or have left, of their own; and what one that runs writes of the same.
    kept = [f".a.partial-{number}.csv", f".ab.partial-{number}.txt", ".a.partial-1.txt"]
    for name in kept:
        (tmp_path / name).touch()
    with whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", *kept}


def test_a_killed_folder_goes_when_it_is_written_again(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f".model.partial-{ended.pid}/part").mkdir(parents=True)
    with whole(tmp_path / "model") as temporary:
        temporary.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_digests() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_sha256_is_the_standard_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_text("abc")
    assert sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_json_round_trip_and_truncation(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"µ": [1, 2]})
    assert read_json(tmp_path / "a.json") == {"µ": [1, 2]}
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(ValueError, match="not a whole JSON file"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds a list"):
        read_json(tmp_path / "a.json")


def test_run_record(tmp_path: Path) -> None:
    with run_record(tmp_path / "run.json", {"seed": 3}) as record:
        record["n_cells"] = 5
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["settings"] == {"seed": 3}
    assert written["n_cells"] == 5
    assert written["seconds"] >= 0
    assert "torch" in written["environment"]["versions"]


def test_a_record_has_the_version_of_every_package_that_a_method_needs() -> None:
    methods = read_table(Path(__file__).parents[1] / "config/methods.tsv", MethodRow).values()
    needed = {row.requires for row in methods if row.requires}
    assert {name.removesuffix("-tools") for name in RECORDED_PACKAGES} >= needed
    assert "scikit-learn" in environment()["versions"]


def test_a_record_counts_what_earlier_runs_took(tmp_path: Path) -> None:
    with run_record(tmp_path / "run.json", {}) as record:
        record[EARLIER] = 100.0
    assert 100 <= json.loads((tmp_path / "run.json").read_text())["seconds"] < 110


def test_a_log_ends_with_what_the_process_took(tmp_path: Path) -> None:
    code = (
        "import sys; from scgpt_core.runs import start_logging\n"
        "start_logging(sys.argv[1]); memory = bytearray(200_000_000)"
    )
    log = tmp_path / "folder/rule.log"
    ours = bytearray(500_000_000)  # of the process that starts it, which is not counted
    subprocess.run([sys.executable, "-c", code, str(log)], check=True)
    del ours
    (said,) = re.findall(r"took (.+) s and (\d+) MB of memory at most$", log.read_text())
    assert float(said[0]) < 60
    assert 190 < int(said[1]) < 400


def test_a_log_has_the_error_that_ended_the_process(tmp_path: Path) -> None:
    code = (
        "import sys; from scgpt_core.runs import start_logging\n"
        "start_logging(sys.argv[1]); raise ValueError('no column x: name another')"
    )
    log, said = tmp_path / "rule.log", "ValueError: no column x: name another\n"
    command = [sys.executable, "-c", code, str(log)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count(said) == 1
    written = rf"failed:\nTraceback [^:]+:\n(  .*\n)+{said}[^\n]+ took .+\n$"
    assert re.search(written, log.read_text())


def test_a_log_of_an_unfinished_run_has_no_error(tmp_path: Path) -> None:
    code = (
        "import sys; from scgpt_core.runs import start_logging\n"
        "start_logging(sys.argv[1]); sys.exit(75)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "rule.log")], check=False)
    assert done.returncode == 75
    assert "failed" not in (tmp_path / "rule.log").read_text()
