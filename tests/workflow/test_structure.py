"""The house rules of the graph: a rule has the script of its name, and says what it needs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "workflow_scripts"
TARGETS = {"all", "benchmark", "report"}
"""Rules that only gather what others make: the names that a user asks for."""
DIRECTIVES = (
    "input", "output", "log", "benchmark", "threads", "resources", "conda",
)  # fmt: skip

_BODY = r":\n((?:(?:[ \t].*)?\n)+)"
_RULE = re.compile(rf"^(?:rule|checkpoint) (\w+){_BODY}", re.MULTILINE)
_USE = re.compile(rf"^use rule (\w+) as (\w+) with{_BODY}", re.MULTILINE)
_DIRECTIVE = re.compile(r"^    (\w+):(.*\n(?:(?: {8}.*)?\n)*)", re.MULTILINE)


FILES = [ROOT / "Snakefile", *sorted((ROOT / "rules").rglob("*.smk"))]


def read_rules() -> dict[str, dict[str, str]]:
    """Text of every directive by its name, by rule."""
    rules: dict[str, dict[str, str]] = {}
    for path in FILES:
        for name, body in _RULE.findall(path.read_text() + "\n"):
            assert name not in rules, f"{path}: rule {name} stands twice"
            rules[name] = dict(_DIRECTIVE.findall(body))
    return rules


def read_variants() -> dict[str, dict[str, str]]:
    """The same of rules that are another one but for some directives: theirs, and its others."""
    return {
        name: RULES[base] | dict(_DIRECTIVE.findall(body))
        for path in FILES
        for base, name, body in _USE.findall(path.read_text() + "\n")
    }


RULES = read_rules()
VARIANTS = read_variants()
NETWORKED = {"query_census", "download_partition", "download_dataset"}
"""Rules that may need the network; all others run on nodes that have none."""
_NETWORK = re.compile(
    r"^\s*(import|from) (cellxgene_census|urllib|requests|huggingface_hub)\b", re.M
)
WORKING = sorted(RULES.keys() - TARGETS)


def test_every_script_has_its_rule_and_every_rule_its_script() -> None:
    assert {path.stem for path in SCRIPTS.glob("*.py")} == set(WORKING)


def test_target_rules_do_nothing_themselves() -> None:
    for name in TARGETS:
        assert set(RULES[name]) - {"default_target", "localrule"} == {"input"}, name


@pytest.mark.parametrize("rule", [*WORKING, *sorted(VARIANTS)])
def test_a_rule_says_what_it_needs(rule: str) -> None:
    directives = (RULES | VARIANTS)[rule]
    needless = {"input"} if rule in NETWORKED else set()
    assert set(DIRECTIVES) - needless <= set(directives)
    assert re.search(rf'"results/logs/\w+/{rule}[._]', directives["log"])
    assert re.search(rf'"results/benchmarks/\w+/{rule}[._]', directives["benchmark"])
    assert {"mem_mb", "runtime"} <= set(re.findall(r"(\w+)=", directives["resources"]))
    environment = re.search(r'"\.\./(.+?)"', directives["conda"])
    assert environment is not None
    assert (ROOT / environment[1]).is_file()


@pytest.mark.parametrize("rule", WORKING)
def test_a_rule_runs_the_script_of_its_name(rule: str) -> None:
    directives = RULES[rule]
    if "shell" in directives:  # only jobs of several processes
        assert "{params.launcher:q}" in directives["shell"]
        assert f"workflow_scripts/{rule}.py" in directives["shell"] + directives["params"]
    else:
        assert f'"../workflow_scripts/{rule}.py"' in directives["script"]


def test_variants_are_found() -> None:
    assert {"annotate", "extra_baseline", "merge_indexes", "perturb"} <= VARIANTS.keys()
    assert not VARIANTS.keys() & RULES.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rules_have_no_lambda(path: Path) -> None:
    assert "lambda" not in path.read_text()


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_a_script_is_thin_and_takes_its_settings_from_the_rule(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 40
    assert "snakemake.config" not in source  # a change of it would rerun nothing
    assert re.search(r"^def main\(", source, re.MULTILINE)


def test_every_page_of_the_report_has_a_caption() -> None:
    captions = (SCRIPTS / "report/page.rst").read_text()
    pages = {path.stem for path in SCRIPTS.glob("notebooks/*.ipynb")}
    assert set(re.findall(r'^    "(\w+)": ".+",$', captions, re.MULTILINE)) == pages


def test_rules_that_need_the_network_are_marked() -> None:
    marked = {rule for rule in WORKING if "downloads=" in RULES[rule]["resources"]}
    assert marked == NETWORKED
    profile = (ROOT / "profiles/slurm/profile.v9+.yaml").read_text()
    assert all(f"    {rule}:\n      slurm_partition:" in profile for rule in marked)


def test_only_their_modules_reach_for_the_network() -> None:
    paths = [*ROOT.glob("scgpt_core/**/*.py"), *SCRIPTS.glob("*.py")]
    reaching = {str(path.relative_to(ROOT)) for path in paths if _NETWORK.search(path.read_text())}
    assert reaching == {
        "scgpt_core/data/census.py",
        "scgpt_core/tasks/datasets.py",
        "scgpt_core/model/hub.py",
    }


def test_no_file_is_compressed_by_lzf() -> None:
    """Its bytes depend on what was in memory before: two files of equal cells differed."""
    for path in sorted((ROOT / "scgpt_core").rglob("*.py")):
        assert '"lzf"' not in path.read_text(), path
