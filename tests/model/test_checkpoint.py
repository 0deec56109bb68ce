"""No weight is lost in silence, no pickled code runs, and every format comes back bit for bit."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scgpt_core.checkpoint import (
    LoadReport,
    adapt_model,
    export_published,
    import_model,
    import_published,
    load_checkpoint,
    load_weights,
    model_digest,
    save_checkpoint,
)
from scgpt_core.config import ModelConfig
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.model import ScGPT
from scgpt_core.published import NAMES, to_ours, to_published
from scgpt_core.runs import read_json, sha256

OFFICIAL = Path(__file__).parents[1] / "golden" / "official_torch_keys"
VARIANTS: dict[str, dict[str, object]] = {
    "base": {},
    "no heads": {"gep": False, "gepc": None},
    "integration": {
        "n_batches": 3,
        "batch_labels": True,
        "dar": True,
        "batch_norm": "domain",
        "explicit_zero_prob": True,
        "n_classes": 4,
        "n_class_layers": 2,
    },
    "plain batch norm": {"batch_norm": "plain"},
    "category": {"value_style": "category", "pad_value": 51, "mask_value": 52},
    "scaling": {"value_style": "scaling", "cell_style": "w-pool"},
    "concat query": {"gepc": "concat query", "cell_style": "avg-pool"},
    "sum query": {"gepc": "sum query"},
    "multiomic": {"n_modalities": 4, "n_batches": 2, "batch_labels": True},
    "perturbation": {
        "perturbation_flags": 3,
        "affine_gep": True,
        "gep_activation": "Softplus",
        "gep_adaptive_bias": True,
    },
}


def build(vocab: Vocabulary, **changes: object) -> ScGPT:
    settings = {"width": 16, "n_layers": 2, "n_heads": 2, "ffn_width": 24, "dropout": 0.1}
    settings |= {"n_tokens": vocab.n_tokens, "pad_id": vocab.pad_id, "cls_id": vocab.cls_id}
    return ScGPT(ModelConfig.model_validate(settings | changes))


@pytest.fixture
def vocab() -> Vocabulary:
    """Keyed by Ensembl ids; two genes share a symbol."""
    tokens = ["ENSG00000000003", "ENSG00000000005", "ENSG00000000419", "<pad>", "<cls>", "<eoc>"]
    return Vocabulary(tokens, ["TSPAN6", "TNMD", "TNMD", "<pad>", "<cls>", "<eoc>"])


def assert_equal_models(a: ScGPT, b: ScGPT) -> None:
    assert a.config == b.config
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype, name
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_own_folder_comes_back_bit_for_bit(variant: str, vocab: Vocabulary, tmp_path: Path) -> None:
    model = build(vocab, **VARIANTS[variant])
    save_checkpoint(tmp_path / "model", model, vocab, {"corpus": "demo", "losses": {"gep": 1.0}})
    ckpt = load_checkpoint(tmp_path / "model", device="cpu")
    assert_equal_models(ckpt.model, model)
    assert ckpt.digest == model_digest(model, vocab)
    assert ckpt.vocab.tokens == vocab.tokens
    assert ckpt.vocab.symbols == vocab.symbols
    assert not ckpt.model.training
    assert set(ckpt.report.matched) == set(model.state_dict())
    training = read_json(tmp_path / "model" / "training.json")
    assert training["digest"] == ckpt.digest
    assert training["losses"] == {"gep": 1.0}
    assert "| corpus | demo |" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("flash", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_exported_folder_comes_back_bit_for_bit(
    variant: str, *, flash: bool, vocab: Vocabulary, tmp_path: Path
) -> None:
    model = build(vocab, **VARIANTS[variant])
    save_checkpoint(tmp_path / "model", model, vocab, {})
    ckpt = load_checkpoint(tmp_path / "model", device="cpu")
    export_published(ckpt, tmp_path / "published", flash=flash)
    back = import_published(tmp_path / "published", device="cpu")
    assert_equal_models(back.model, model)
    assert back.digest == ckpt.digest
    assert back.vocab.symbols == vocab.symbols


def test_exported_folder_is_what_the_published_code_reads(tmp_path: Path) -> None:
    export_published(load_checkpoint(OFFICIAL, device="cpu"), tmp_path / "out")
    published = torch.load(OFFICIAL / "best_model.pt", weights_only=True)
    exported = torch.load(tmp_path / "out" / "best_model.pt", weights_only=True)
    assert set(exported) == set(published)
    for name in published:
        assert torch.equal(exported[name], published[name]), name
    assert json.loads((tmp_path / "out" / "vocab.json").read_text()) == json.loads(
        (OFFICIAL / "vocab.json").read_text()
    )
    args = json.loads((OFFICIAL / "args.json").read_text())
    assert args.items() <= read_json(tmp_path / "out" / "args.json").items()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "args.json",
        "best_model.pt",
        "vocab.json",
    ]


def test_settings_that_a_published_folder_does_not_tell_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(OFFICIAL, tmp_path / "published")
    args = read_json(folder / "args.json")
    del args["n_bins"]
    (folder / "args.json").write_text(json.dumps(args))
    load_checkpoint(folder, device="cpu")
    assert "args.json has no n_bins: taken as in the published models (n_bins 51)" in caplog.text


def test_imported_model_records_its_source(tmp_path: Path) -> None:
    import_model(OFFICIAL, tmp_path / "model")
    ckpt = load_checkpoint(tmp_path / "model", device="cpu")
    assert ckpt.digest == load_checkpoint(OFFICIAL, device="cpu").digest
    training = read_json(tmp_path / "model" / "training.json")
    assert training["source_sha256"] == {p.name: sha256(p) for p in OFFICIAL.iterdir()}
    assert "52 weights loaded, 0 missing" in training["load_report"]


def test_symbols_of_several_genes_are_exported_as_their_ids(
    vocab: Vocabulary, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "model", build(vocab), vocab, {})
    export_published(load_checkpoint(tmp_path / "model", device="cpu"), tmp_path / "out")
    names = list(read_json(tmp_path / "out" / "vocab.json"))
    assert names[:4] == ["TSPAN6", "ENSG00000000005", "ENSG00000000419", "<pad>"]


def test_names_lead_there_and_back() -> None:
    for published, _ in NAMES:
        name = published.replace("{}", "7") + "weight"
        assert to_published(to_ours(name)) == name
    assert to_ours("somebody.elses.weight") == "somebody.elses.weight"


def copy_official(folder: Path) -> Path:
    shutil.copytree(OFFICIAL, folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    weights = torch.load(folder / "best_model.pt", weights_only=True)
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del weights[name]
        else:
            weights[name] = tensor
    torch.save(weights, folder / "best_model.pt")


def test_lost_weights_are_named(tmp_path: Path) -> None:
    folder = copy_official(tmp_path / "model")
    change_weights(
        folder,
        decoder__fc__0__weight=None,
        transformer_encoder__layers__1__norm1__bias=torch.zeros(5),
        somebody__elses=torch.zeros(1),
    )
    with pytest.raises(ValueError, match="3 weights do not fit the model") as error:
        load_checkpoint(folder, device="cpu")
    assert "missing: gep_head.value.0.weight" in str(error.value)
    assert "unexpected: somebody.elses" in str(error.value)
    assert "mismatched: layers.1.norm1.bias [5] -> [32]" in str(error.value)


def test_declared_weights_may_be_lost_but_are_reported(
    vocab: Vocabulary, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    source = build(vocab, n_classes=3)
    weights = source.state_dict()
    with pytest.raises(ValueError, match=r"mismatched: class_head\.out\.weight \[3, 16\]"):
        load_weights(build(vocab, n_classes=5), weights, optional=("class_head.out.bias",))
    target = build(vocab, n_classes=5)
    fresh = target.class_head.out.weight.clone()
    report = load_weights(target, weights, optional=("class_head.out.",))
    assert isinstance(report, LoadReport)
    assert [name.split()[0] for name in report.mismatched] == [
        "class_head.out.weight",
        "class_head.out.bias",
    ]
    assert torch.equal(target.class_head.out.weight, fresh)
    assert torch.equal(target.gep_head.value[0].weight, source.gep_head.value[0].weight)
    assert "2 mismatched (class_head.out.weight [3, 16] -> [5, 16]" in caplog.text


def test_adapted_model_starts_from_the_weights(vocab: Vocabulary, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", build(vocab), vocab, {})
    ckpt = load_checkpoint(tmp_path / "model", device="cpu")
    changes = {"n_batches": 3, "dar": True, "batch_norm": "domain", "explicit_zero_prob": True}
    fresh = ("batch_head.", "domain_norm.", "gep_head.nonzero.", "gepc_head.nonzero.")
    model, report = adapt_model(ckpt, changes, fresh=fresh)
    assert set(report.matched) == set(ckpt.model.state_dict())
    assert all(name.startswith(fresh) for name in report.missing)
    with pytest.raises(ValueError, match=r"missing: batch_head"):
        adapt_model(ckpt, changes, fresh=fresh[1:])
    with pytest.raises(ValueError, match="n_batchs"):
        adapt_model(ckpt, {"n_batchs": 3})
    assert model.config.n_batches == 3


class Bomb:
    """Would write a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_pickled_code_never_runs(tmp_path: Path) -> None:
    for file in ("best_model.pt", "vocab.json"):
        folder = copy_official(tmp_path / file)
        trap = tmp_path / "exploded"
        if file == "best_model.pt":
            torch.save({"encoder.embedding.weight": Bomb(trap)}, folder / file)
        else:
            (folder / file).write_bytes(pickle.dumps(Bomb(trap)))
        with pytest.raises(ValueError, match=r"is never run|[Pp]ickled vocabulary is refused"):
            load_checkpoint(folder, device="cpu")
        assert not trap.exists()


def test_damaged_and_incomplete_folders_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model\.safetensors in .*, which has nothing"):
        load_checkpoint(tmp_path / "nowhere")
    folder = copy_official(tmp_path / "cut")
    content = (folder / "best_model.pt").read_bytes()
    (folder / "best_model.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(folder)
    (folder / "best_model.pt").unlink()
    with pytest.raises(ValueError, match=r"no best_model\.pt in .*args\.json, vocab\.json"):
        load_checkpoint(folder)


def test_cut_off_safetensors_are_refused(vocab: Vocabulary, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", build(vocab), vocab, {})
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(tmp_path / "model")


def test_vocabulary_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = copy_official(tmp_path / "model")
    ids = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(ids | {"GENE1000": len(ids)}))
    with pytest.raises(ValueError, match="do not belong together"):
        load_checkpoint(folder, device="cpu")


def test_both_spellings_of_one_weight_are_refused(tmp_path: Path) -> None:
    folder = copy_official(tmp_path / "model")
    name = "transformer_encoder__layers__0__self_attn__Wqkv__bias"
    change_weights(folder, **{name: torch.zeros(96)})
    with pytest.raises(ValueError, match="stand twice"):
        load_checkpoint(folder, device="cpu")


def test_hugging_face_manner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = ScGPT.from_pretrained(OFFICIAL)  # the published format
    model.save_pretrained(tmp_path / "own")
    again = ScGPT.from_pretrained(str(tmp_path / "own"), attention="plain")
    assert_equal_models(again, model)
    assert again.attention == "plain"
    assert again.vocab is not None
    assert load_checkpoint(OFFICIAL, device="cpu").digest == model_digest(again, again.vocab)
    card = hub.ModelCard.load(tmp_path / "own" / "README.md")
    assert card.data.library_name == "scgpt-core"
    assert callable(model.push_to_hub)
    assert isinstance(model, hub.ModelHubMixin)


def test_a_model_saved_again_keeps_the_record_of_its_training(
    vocab: Vocabulary, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    save_checkpoint(tmp_path / "model", build(vocab), vocab, {"classes": ["B cell"]})
    model = ScGPT.from_pretrained(tmp_path / "model")
    assert set(model.load_report.matched) == set(model.state_dict())
    model.save_pretrained(tmp_path / "again")
    first, again = (read_json(tmp_path / name / "training.json") for name in ("model", "again"))
    assert again == first
    with torch.no_grad():
        model.get_parameter("gene_embedding.table.weight").mul_(2)
    model.save_pretrained(tmp_path / "changed")
    changed = read_json(tmp_path / "changed/training.json")
    assert changed["classes"] == ["B cell"]
    assert changed["changed_from"] == first["digest"] != changed["digest"]
    ScGPT.from_pretrained(OFFICIAL).save_pretrained(tmp_path / "published")
    assert OFFICIAL.name in read_json(tmp_path / "published/training.json")["source"]


def test_a_folder_keeps_its_other_files(vocab: Vocabulary, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    model = build(vocab)
    model.vocab = vocab
    (tmp_path / "thesis.txt").write_text("years of work")
    for _ in range(2):
        model.save_pretrained(tmp_path)
        assert (tmp_path / "thesis.txt").read_text() == "years of work"
        assert {path.name for path in tmp_path.iterdir()} == {
            "thesis.txt", "model.safetensors", "config.json", "vocab.json", "training.json",
            "README.md",
        }  # fmt: skip
    ckpt = load_checkpoint(tmp_path, device="cpu")
    assert_equal_models(ckpt.model, model)
    said = r"holds .*thesis\.txt.* would delete"
    with pytest.raises(ValueError, match=said):
        save_checkpoint(tmp_path, model, vocab, {})
    with pytest.raises(ValueError, match=said):
        export_published(ckpt, tmp_path)
    assert (tmp_path / "thesis.txt").exists()
    for _ in range(2):  # a model of the same format is replaced
        save_checkpoint(tmp_path / "own", model, vocab, {})
        export_published(ckpt, tmp_path / "published")


def test_a_model_is_not_saved_where_another_would_be_read(
    vocab: Vocabulary, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    model = build(vocab)
    model.vocab = vocab
    folder = copy_official(tmp_path / "published")
    with pytest.raises(ValueError, match="holds a model in the published format"):
        model.save_pretrained(folder)
    assert not (folder / "model.safetensors").exists()


def test_unknown_options_of_from_pretrained_are_refused() -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ValueError, match="from_pretrained knows no devise: it takes device"):
        ScGPT.from_pretrained(OFFICIAL, devise="cpu")
    assert ScGPT.from_pretrained(OFFICIAL, revision="main", local_files_only=True).vocab


def test_a_perturbation_context_is_not_lost_in_the_published_format(
    vocab: Vocabulary, tmp_path: Path
) -> None:
    model = build(vocab, perturbation_flags=3, perturbation_context=True, gepc=None)
    save_checkpoint(tmp_path / "model", model, vocab, {})
    ckpt = load_checkpoint(tmp_path / "model", device="cpu")
    with pytest.raises(ValueError, match="the published code knows no perturbation context"):
        export_published(ckpt, tmp_path / "published")
    assert not (tmp_path / "published").exists()


def test_models_load_without_the_hub() -> None:
    code = f"""
import sys
sys.modules["huggingface_hub"] = None
from scgpt_core.checkpoint import load_checkpoint
assert load_checkpoint({str(OFFICIAL)!r}, device="cpu").config.n_layers == 2
heavy = {{"anndata", "pandas", "scanpy", "scipy", "sklearn", "tiledbsoma"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_model_without_vocabulary_is_not_saved(vocab: Vocabulary, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ValueError, match="has no vocabulary"):
        build(vocab).save_pretrained(tmp_path / "model")
