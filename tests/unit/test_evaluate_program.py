"""``training/evaluate.py`` from a data set and a model to figures, plots, page and card; and what it refuses."""

from __future__ import annotations

import importlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from galaxray.models.classifier import ClassifierNet
from galaxray.models.vae import VAE
from galaxray.models.weights import load_model, save_model
from galaxray.training.program import run_training
from galaxray.training.shards import Shards, write_shards
from galaxray.trees import load_tree

ROOT = Path(__file__).parents[2]
TREE = load_tree("gz_rings")
NUM = 120
VIEW = {"size": 32, "zoom": 1.0}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_shards(tmp_path_factory.mktemp("data") / "shards", [table()], val=0.2, test=0.4)


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def table(num: int = NUM) -> pa.Table:
    """Bright and dark pictures, with labels of every kind; the brightness is the class."""
    rng = np.random.default_rng(0)
    bright = rng.random(num) < 0.5
    images = []
    for is_bright in bright:
        buffer = io.BytesIO()
        noise = rng.integers(0, 60, (40, 40, 3), np.uint8) + np.uint8(150 if is_bright else 20)
        Image.fromarray(noise).save(buffer, format="PNG")
        images.append(buffer.getvalue())
    votes = rng.multinomial(20, [0.3, 0.7], num)
    return pa.table(
        {
            "object_id": [f"g{i}" for i in range(num)],
            "image": images,
            **{label: votes[:, i] for i, label in enumerate(TREE.labels)},
            "kind": [None if i % 10 == 0 else "bright" if b else "dark" for i, b in enumerate(bright)],
            "size": rng.normal(5, 1, num),
            "mass": np.where(np.arange(num) % 3 == 0, np.nan, rng.normal(10, 1, num)),
        }
    )


def model(stem: Path, shards: Shards, task: Any, outputs: int, settings: dict[str, Any], **training: Any) -> str:
    torch.manual_seed(0)
    net = ClassifierNet("test_resnet", outputs, task, dropout=0.3)
    known = {"tree": {"tree": TREE.to_dict()}, "classes": {"labels": ["bright", "dark"]}}
    card = {
        "task": task,
        "view": VIEW,
        **known.get(task, {"labels": list(settings.get("targets", ()))}),
        "training": {"data": "shards", "digest": shards.digest, "split": "train", "settings": settings, **training},
        "not_fit_for": ["anything but this test"],
    }
    return str(save_model(stem, net, card)).removesuffix(".safetensors")


def run(*arguments: str) -> int:
    program = importlib.import_module("training.evaluate").EvaluateProgram
    return run_training(program, program.run, arguments, program="evaluate.py")


def evaluate(ref: str, shards: Shards, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """Figures of a model; the output beside it, unless the arguments name another."""
    given = ("--model", ref, "--data", shards.folder, "--cache", str(tmp_path / "cache"), "--replicates", "20")
    assert run(*given, *arguments) == 0
    place = arguments[arguments.index("--output") + 1] if "--output" in arguments else f"{ref}.evaluation"
    return dict(json.loads((Path(place) / "metrics.json").read_text()))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(*arguments) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_votes_and_the_card(shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref = model(tmp_path / "rings-1.5", shards, "tree", 2, {"tree": "gz_rings"})
    metrics = evaluate(ref, shards, tmp_path, "--update-card")
    assert (metrics["split"], metrics["galaxies"], metrics["notes"]) == ("test", shards.num["test"], [])
    assert metrics["data"]["digest"] == shards.digest
    printed = capsys.readouterr().out
    assert "observed votes in the 90 % interval" in printed
    folder = Path(f"{ref}.evaluation")
    plots = {"reliability.png", "coverage.png", "pit.png"}
    assert plots | {"metrics.json", "README.md"} <= {path.name for path in folder.iterdir()}
    page = (folder / "README.md").read_text()
    assert all(f"]({name})" in page for name in plots)
    for name in plots:
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 200

    net, card = load_model(ref)  # the weights are as they were, and the card still is one
    assert isinstance(net, ClassifierNet)
    assert card["metrics"]["split"] == "test"
    assert card["metrics"]["overall"]["coverage_90"] == metrics["overall"]["coverage_90"]
    assert "pit" not in card["metrics"]["overall"]
    assert f"--model {ref}" in card["metrics"]["command"]
    text = Path(f"{ref}.md").read_text()
    for expected in ("# rings-1.5", "test_resnet", shards.digest[:12], "settings: tree gz_rings", "but this test"):
        assert expected in text


def test_classes(shards: Shards, tmp_path: Path) -> None:
    ref = model(tmp_path / "kinds", shards, "classes", 2, {"column": "kind"}, where="size > 4")
    metrics = evaluate(ref, shards, tmp_path)
    test = shards.split("test")
    labelled = np.array([kind is not None for kind in test.label("kind")]) & (test.label("size") > 4)
    assert metrics["galaxies"] == labelled.sum() == np.sum(metrics["confusion"])
    assert evaluate(ref, shards, tmp_path, "--where", "")["galaxies"] > labelled.sum()
    rules = ("--rules", "bright=kind == 'dark'", "--rules", "dark=kind == 'bright'")
    turned = evaluate(ref, shards, tmp_path, *rules)
    assert turned["overall"]["accuracy"]["value"] == pytest.approx(1 - metrics["overall"]["accuracy"]["value"])


def test_numbers(shards: Shards, tmp_path: Path) -> None:
    ref = model(tmp_path / "numbers", shards, "regression", 2, {"targets": ["size", "mass"]})
    metrics = evaluate(ref, shards, tmp_path)
    assert metrics["targets"]["mass"]["galaxies"] == np.isfinite(shards.split("test").label("mass")).sum()
    assert metrics["targets"]["size"]["rmse"]["error"] > 0
    assert (Path(f"{ref}.evaluation") / "scatter.png").is_file()


def test_ensembles_and_passes(shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref = model(tmp_path / "a", shards, "tree", 2, {"tree": "gz_rings"})
    one = evaluate(ref, shards, tmp_path)
    passes = evaluate(ref, shards, tmp_path, "--passes", "4")
    assert passes["overall"]["nll"]["value"] != one["overall"]["nll"]["value"]
    for suffix in (".safetensors", ".json"):
        shutil.copy(ref + suffix, tmp_path / f"b{suffix}")
    both = f"{ref},{tmp_path / 'b'}"
    same = evaluate(both, shards, tmp_path, "--output", str(tmp_path / "both"))
    assert run("--model", ref, str(tmp_path / "b"), "--data", shards.folder, "--output", str(tmp_path / "both")) == 0
    assert same["overall"]["nll"]["value"] == pytest.approx(one["overall"]["nll"]["value"])
    assert "on the card of none" in refused(capsys, "--model", both, "--data", shards.folder, "--update-card")
    assert "with --output" in refused(capsys, "--model", both, "--data", shards.folder)


def test_galaxies_that_it_was_trained_on_are_refused(
    shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ref = model(tmp_path / "kinds", shards, "classes", 2, {"column": "kind"})
    given = ("--model", ref, "--data", shards.folder)
    trained = shards.num["train"]
    message = refused(capsys, *given, "--split", "train")
    assert f"was trained on {trained} of the {trained} galaxies in train" in message
    assert "--allow-training-split" in message
    assert "was trained on" in refused(capsys, *given, "--fold", "0")  # a fold is of all galaxies
    allowed = evaluate(ref, shards, tmp_path, "--split", "train", "--allow-training-split")
    assert "TRAINED on" in allowed["notes"][0]
    assert "chosen by their loss" in evaluate(ref, shards, tmp_path, "--split", "val")["notes"][0]


def test_folds_of_a_cross_validation(shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fold = {"split": "all but folds 1 and the next of 3", "fold": 1, "folds": 3}
    refs = [
        model(tmp_path / f"fold{k}", shards, "tree", 2, {"tree": "gz_rings"}, **{**fold, "fold": k}) for k in range(3)
    ]
    metrics = evaluate(refs[1], shards, tmp_path, "--fold", "1", "--folds", "3")
    assert (metrics["split"], metrics["notes"]) == ("fold 1 of 3", [])
    assert metrics["galaxies"] == len(shards.fold(1, 3)["test"])
    given = ("--model", refs[1], "--data", shards.folder)
    assert "was trained on" in refused(capsys, *given, "--fold", "0", "--folds", "3")
    assert "was trained on" in refused(capsys, *given)  # nor on the data set's own test split
    every = evaluate(",".join(refs), shards, tmp_path, "--out-of-fold", "--output", str(tmp_path / "cv"))
    assert every["galaxies"] == NUM
    again = model(tmp_path / "again", shards, "tree", 2, {"tree": "gz_rings"}, **fold)
    twice = ("--model", f"{refs[1]},{again}", "--out-of-fold", "--output", str(tmp_path / "cv"))
    assert "a galaxy would count twice" in refused(capsys, *twice, "--data", shards.folder)
    assert "the same model twice" in refused(capsys, "--model", f"{again},{again}", "--data", shards.folder)
    plain = model(tmp_path / "plain", shards, "tree", 2, {"tree": "gz_rings"})
    assert "does not say which fold" in refused(capsys, "--model", plain, "--data", shards.folder, "--out-of-fold")


def test_what_cannot_be_checked_is_said(shards: Shards, tmp_path: Path) -> None:
    ref = model(tmp_path / "other", shards, "tree", 2, {"tree": "gz_rings"}, digest="0" * 64)
    assert "another data set" in evaluate(ref, shards, tmp_path)["notes"][0]
    silent = model(tmp_path / "silent", shards, "tree", 2, {"tree": "gz_rings"}, digest=None)
    assert "does not say on which galaxies" in evaluate(silent, shards, tmp_path)["notes"][0]


def test_mistakes(shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref = model(tmp_path / "kinds", shards, "classes", 2, {"column": "kind"})
    given = ("--model", ref, "--data", shards.folder)
    assert "no split 'tset'" in refused(capsys, *given, "--split", "tset")
    assert "no label column 'kinds'; did you mean 'kind'" in refused(capsys, *given, "--column", "kinds")
    assert "none of" in refused(capsys, *given, "--where", "size > 100")
    assert "holds no finished data set" in refused(capsys, "--model", ref, "--data", str(tmp_path))
    assert "does not exist" in refused(capsys, "--model", "nowhere", "--data", shards.folder)
    assert "passes" in refused(capsys, *given, "--passes", "0")
    assert "--splitt" in refused(capsys, *given, "--splitt", "val")
    vae = str(save_model(tmp_path / "vae", VAE(5, 32, 4), {"view": VIEW}))
    assert "is a vae; this program scores classifiers" in refused(capsys, "--model", vae, "--data", shards.folder)
    votes = model(tmp_path / "votes", shards, "regression", 1, {"targets": ["size", "mass"]})
    assert "1 outputs" in refused(capsys, "--model", votes, "--data", shards.folder)
    assert not list(tmp_path.glob("*.evaluation"))


def test_flags_in_the_document_exist() -> None:
    programs = [importlib.import_module("training.evaluate").EvaluateProgram]
    programs.append(importlib.import_module("training.export").ExportProgram)
    known = {name.replace("_", "-") for program in programs for name in program.model_fields}
    flags = set(re.findall(r"--([a-z][a-z-]+)", (ROOT / "docs" / "evaluation.md").read_text()))
    assert {"allow-training-split", "images"} <= flags <= known
