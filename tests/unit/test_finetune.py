"""Finetuning end to end at a tiny size: what comes out is a model that runs load, and a killed one goes on."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from galaxray.config import ClassifierConfig
from galaxray.errors import ConfigError, RunMismatchError
from galaxray.models import load_classifier
from galaxray.models.classifier import ClassifierNet
from galaxray.models.weights import load_model, save_model
from galaxray.training.augment import AugmentConfig
from galaxray.training.finetune import FinetuneSettings, finetune
from galaxray.training.finetune_task import Examples, FinetuneConfig, FinetuneTask
from galaxray.training.program import lists_joined, run_training
from galaxray.training.shards import write_shards
from galaxray.trees import load_tree

TREE = "gz_rings"


def picture(brightness: float, rng: np.random.Generator) -> bytes:
    pixels = np.clip(rng.normal(brightness, 20, (24, 24, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark galaxies; what is asked of them is how bright they are."""
    folder, rng = tmp_path_factory.mktemp("data") / "shards", np.random.default_rng(0)
    brightness = rng.uniform(60, 200, 120)
    bright = brightness > 130
    votes = rng.binomial(20, np.where(bright, 0.9, 0.1))
    write_shards(
        folder,
        [
            pa.table(
                {
                    "object_id": [f"g{row}" for row in range(120)],
                    "image": [picture(value, rng) for value in brightness],
                    "kind": np.where(bright, "bright", "dark").tolist(),
                    "brightness": pa.array(np.where(rng.random(120) < 0.1, np.nan, brightness), from_pandas=True),
                    "share": (brightness / 255).tolist(),
                    "ring_yes": votes.tolist(),
                    "ring_no": (20 - votes).tolist(),
                }
            )
        ],
        val=0.2,
        test=0.2,
    )
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(1)
    net = ClassifierNet("resnet18", 3, "classes", encoder_options={"channels": [4, 4, 8, 8]})
    view = {"view": {"size": 24, "zoom": 1.0}, "labels": ["a", "b", "c"]}
    return str(save_model(tmp_path_factory.mktemp("encoder") / "start", net, view))


def settings(folder: Path, output: Path, encoder: str, **changes: object) -> FinetuneSettings:
    quick = {"epochs": 16, "head_epochs": 2, "batch_size": 16, "learning_rate": 1e-2, "lr_decay": 1.0, "bf16": False}
    quick |= {
        "dropout": 0.1,
        "report_every_s": 1e-9,
        "ema_decay": 0.5,
        "augment": AugmentConfig(brightness=0, colour=0),
    }
    where = {
        "data": str(folder),
        "output": output,
        "encoder": encoder,
        "cache": folder.parent / "cache",
        "device": "cpu",
    }
    return FinetuneSettings.model_validate(quick | where | {"task": "classes", "column": "kind"} | changes)


def ignore(kind: str, figures: dict[str, float]) -> None:
    pass


def outputs(path: Path, brightness: float, count: int = 20) -> np.ndarray:
    """Mean outputs for pictures of one brightness, as a run would have them."""
    model = load_classifier([str(path)], ClassifierConfig(), "cpu", "fp32")
    images = np.clip(np.random.default_rng(9).normal(brightness, 20, (count, 24, 24, 3)), 0, 255).astype(np.uint8)
    return model.predict(images, np.arange(count)).mean(axis=(0, 2))


def test_classes(tmp_path, data, encoder) -> None:
    said = []
    weights = finetune(settings(data, tmp_path / "m", encoder), lambda kind, figures: said.append((kind, figures)))
    assert outputs(weights, 180)[0] > 0.8
    assert outputs(weights, 80)[1] > 0.8
    _, card = load_model(weights, "classifier")
    assert card["labels"] == ["bright", "dark"]
    assert card["task"] == "classes"
    assert card["training"]["split"] == "train"
    assert card["training"]["galaxies"]["train"] + card["training"]["galaxies"]["val"] < 120
    epochs = [figures for kind, figures in said if kind == "epoch"]
    assert len(epochs) == 16
    assert epochs[-1]["accuracy"] > 0.8
    assert 0 <= epochs[-1]["waiting"] < 1
    assert json.loads((tmp_path / "m" / "history.json").read_text())[-1]["epoch"] == 16


def test_classes_by_rules_and_balanced(tmp_path, data, encoder) -> None:
    rules = {"faint": "brightness < 90", "brilliant": "brightness >= 110"}
    chosen = settings(data, tmp_path / "m", encoder, column=None, rules=rules, class_weights="balanced", epochs=3)
    _, card = load_model(finetune(chosen, ignore), "classifier")
    assert card["labels"] == ["faint", "brilliant"]
    assert card["training"]["galaxies"]["train"] < 80


def test_votes(tmp_path, data, encoder) -> None:
    weights = finetune(settings(data, tmp_path / "m", encoder, task="tree", column=None, tree=TREE), ignore)
    yes, no = outputs(weights, 180)
    assert yes / (yes + no) > 0.7
    yes, no = outputs(weights, 80)
    assert yes / (yes + no) < 0.3
    _, card = load_model(weights, "classifier")
    assert tuple(card["labels"]) == load_tree(TREE).labels


@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_numbers_in_their_own_units(tmp_path, data, encoder, loss) -> None:
    numbers = {"task": "regression", "column": None, "targets": ("brightness", "share"), "regression_loss": loss}
    weights = finetune(settings(data, tmp_path / "m", encoder, **numbers), ignore)
    low, high = outputs(weights, 80), outputs(weights, 180)
    assert low[0] == pytest.approx(80, abs=25)
    assert high[0] == pytest.approx(180, abs=25)
    assert high[1] == pytest.approx(180 / 255, abs=0.1)


def test_fractions_stay_fractions(tmp_path, data, encoder) -> None:
    numbers = {"task": "regression", "column": None, "targets": ("share",), "unit_interval": True}
    weights = finetune(settings(data, tmp_path / "m", encoder, **numbers), ignore)
    assert outputs(weights, 180)[0] == pytest.approx(180 / 255, abs=0.15)
    assert 0 <= outputs(weights, 0)[0] <= outputs(weights, 255)[0] <= 1


def test_folds_validate_on_the_next_one(tmp_path, data, encoder) -> None:
    digests = set()
    for fold in (0, 1):
        chosen = settings(data, tmp_path / f"m{fold}", encoder, fold=fold, folds=3, epochs=1, head_epochs=1)
        _, card = load_model(finetune(chosen, ignore), "classifier")
        assert card["training"]["fold"] == fold
        digests.add(card["sha256"])
    assert len(digests) == 2


class Killed(BaseException):
    pass


def test_killed_and_run_again_it_ends_with_the_same_weights(tmp_path, data, encoder) -> None:
    whole = finetune(settings(data, tmp_path / "whole", encoder, epochs=4), ignore)
    again = settings(data, tmp_path / "again", encoder, epochs=4, save_every_s=1e-9)

    for kill in (2, 5, 8, 11):

        def report(kind: str, figures: dict[str, float], kill: int = kill) -> None:
            if kind == "step" and figures["step"] == kill:
                raise Killed

        with pytest.raises(Killed):
            finetune(again, report)
        assert (tmp_path / "again" / "checkpoints" / "last.pt").exists()
    weights = finetune(again, ignore)
    assert load_model(weights)[1]["sha256"] == load_model(whole)[1]["sha256"]
    histories = [json.loads((path.parent / "history.json").read_text()) for path in (whole, weights)]
    assert histories[0] == histories[1]
    # Run once more it has nothing to do, and leaves alone what was written into the card since.
    card = weights.with_suffix(".json")
    card.write_text(card.read_text().replace('"task"', '"metrics": {"accuracy": 1}, "task"', 1))
    assert finetune(again, ignore) == weights
    assert load_model(weights)[1]["metrics"] == {"accuracy": 1}
    # Killed before the card was written, it writes model and card.
    card.unlink()
    assert load_model(finetune(again, ignore))[1]["sha256"] == load_model(whole)[1]["sha256"]


def test_a_folder_holds_one_training(tmp_path, data, encoder) -> None:
    finetune(settings(data, tmp_path / "m", encoder, epochs=1, head_epochs=1), ignore)
    with pytest.raises(RunMismatchError, match=r"dropout was 0\.1, is 0\.2"):
        finetune(settings(data, tmp_path / "m", encoder, epochs=1, head_epochs=1, dropout=0.2), ignore)


def test_an_address_is_no_folder(data, encoder) -> None:
    with pytest.raises(ConfigError, match="a folder on a disk"):
        finetune(settings(data, Path("s3://bucket/model"), encoder), ignore)
    assert not Path("s3:").exists()


def test_what_cannot_be_trained_on_is_refused_before_it_begins(tmp_path, data, encoder) -> None:
    for changes, word in (
        ({"column": "kid"}, "did you mean 'kind'"),
        ({"data": str(tmp_path)}, "no finished data set"),
        ({"where": "brightness > 1000"}, "none of"),
        ({"task": "tree"}, "decision tree"),
        ({"task": "tree", "tree": "gz_decals_5"}, "no column has votes"),
        ({"task": "regression", "targets": ("kind",)}, "a target is a number"),
    ):
        with pytest.raises(ConfigError, match=word):
            finetune(settings(data, tmp_path / "m", encoder, **changes), ignore)
        assert not (tmp_path / "m" / "checkpoints").exists()


def test_a_mirrored_galaxy_has_the_labels_of_its_mirror_image() -> None:
    """Arms that wind clockwise do so anticlockwise in the mirror: a model that is told otherwise cannot learn them."""
    pixels = np.zeros((8, 8, 8, 3), np.uint8)
    pixels[::2, :, :4] = 200  # bright on the left: "cw"
    pixels[1::2, :, 4:] = 200
    targets = np.tile(np.array([0, 1]), 4)
    net = ClassifierNet("resnet18", 2, "classes", encoder_options={"channels": [4, 4, 4, 4]})
    config = FinetuneConfig(
        head_epochs=0, augment=AugmentConfig(rotate="none", zoom=0, shift=0, brightness=0, colour=0), bf16=False
    )
    task = FinetuneTask(net, Examples(pixels, targets), Examples(pixels, targets), ["p_cw", "p_acw"], config)

    class Side(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            left = images[..., :4].mean((1, 2, 3)) - images[..., 4:].mean((1, 2, 3))
            return torch.stack([100 * left, -100 * left], dim=1)

    draws = torch.rand(8, 10, generator=torch.Generator().manual_seed(0))
    assert 0 < int((draws[:, 0] < 0.5).sum()) < 8
    batch = (torch.from_numpy(pixels), draws, torch.from_numpy(targets))
    assert float(task.loss(Side(), batch, 0.5)) < 1e-3
    plain = FinetuneTask(net, Examples(pixels, targets), Examples(pixels, targets), ["left", "right"], config)
    assert float(plain.loss(Side(), batch, 0.5)) > 10


def test_program(tmp_path, data, encoder, capsys) -> None:
    from training.finetune import FinetuneProgram, run

    words = ["--data", str(data), "--output", str(tmp_path / "m"), "--encoder", encoder, "--task", "regression"]
    words += ["--targets", "brightness", "share", "--epochs", "2", "--head-epochs", "1", "--batch-size", "16"]
    words += ["--cache", str(tmp_path / "cache"), "--device", "cpu", "--augment.rotate", "right-angles"]
    assert run_training(FinetuneProgram, run, words, program="finetune.py") == 0
    said = capsys.readouterr().out
    assert "epoch 2: training loss" in said
    assert "of the time waited for images" in said
    assert f"model:   {tmp_path / 'm' / 'model.safetensors'}" in said
    rules = ["--rules", "dark=brightness < 100", "--rules", "bright=brightness >= 100", "--epochs", "1"]
    words = ["--data", str(data), "--output", str(tmp_path / "n"), "--task", "classes", "--encoder", encoder, *rules]
    assert run_training(FinetuneProgram, run, [*words, "--cache", str(tmp_path)], program="finetune.py") == 0
    capsys.readouterr()
    for wrong, word in (
        (["--column", "kind"], "rules for the classes"),
        (["--dat", "x"], "did you mean --data"),
        (["--column", "kind", "--num-workers", "2"], "rules for the classes"),
        (["--epochs", "0"], "epochs = '0': input should be greater than 0"),
    ):
        assert run_training(FinetuneProgram, run, [*words, *wrong], program="finetune.py") == 2
        said = capsys.readouterr().err
        assert word in said
        assert len(said.splitlines()) == 1


def test_several_values_of_a_flag_may_follow_it() -> None:
    words = ["--targets", "a", "b", "c", "--data", "d", "--targets=e", "--classes", "x"]
    expected = ["--targets", "a,b,c", "--data", "d", "--targets=e", "--classes", "x"]
    assert lists_joined(words, FinetuneSettings) == expected
