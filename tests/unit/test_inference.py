"""Predictions for single images: a row of CSV for each, whatever it is."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from galaxray.models.classifier import ClassifierNet
from galaxray.models.weights import save_model
from training.inference import main

TARGETS = ["P_EL", "P_CW", "P_ACW", "P_EDGE", "P_DK", "P_MG", "P_CS", "P_EL_DEBIASED", "P_CS_DEBIASED"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    net = ClassifierNet("resnet18", 9, "regression", unit_interval=True, encoder_options={"channels": [4, 4, 8, 8]})
    card = {"view": {"size": 32, "zoom": 1.0}, "labels": TARGETS}
    return str(save_model(tmp_path_factory.mktemp("model") / "gz1", net, card))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, suffix in enumerate(("jpg", "png")):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"58772717898635682{number}.{suffix}")
    (folder / "=cmd.jpg").write_bytes(b"no picture")
    return folder


def test_one_image_gives_one_row_with_all_columns(model, images, capsysbinary) -> None:
    path = images / "587727178986356820.jpg"
    assert main(["--model", model, "587727178986356823", str(path)]) == 0
    (row,) = csv.DictReader(io.StringIO(capsysbinary.readouterr().out.decode()))
    assert row["object_id"] == "587727178986356823"
    assert row["status"] == "ok"
    assert all(0 < float(row[name]) < 1 for name in TARGETS)
    assert main(["--model", model, "x", str(path), "--orientations", "8"]) == 0
    (turned,) = csv.DictReader(io.StringIO(capsysbinary.readouterr().out.decode()))
    assert 0 < float(turned["P_EL"]) < 1


def test_a_folder_gives_a_row_for_every_file_and_none_that_is_a_formula(model, images, capsysbinary) -> None:
    assert main(["--model", model, "--folder", str(images)]) == 0
    found = list(csv.DictReader(io.StringIO(capsysbinary.readouterr().out.decode())))
    assert [row["object_id"] for row in found] == ["587727178986356820", "587727178986356821", "'=cmd"]
    assert [row["status"] for row in found] == ["ok", "ok", "corrupt"]
    assert found[2]["P_EL"] == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["one"], "an identifier and an image"),
        ([], "an identifier and an image"),
        (["--folder", "nowhere"], "there is no such folder"),
        (["--folder", ".", "id", "image.jpg"], "or --folder"),
    ],
)
def test_what_cannot_be_used_is_refused(model, words, said, capsys) -> None:
    assert main(["--model", model, *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert main(["--model", "nowhere.safetensors", "id", "image.jpg"]) == 2
