"""The training programs run end to end at a tiny size, and give models that a run can load."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from galaxray.errors import ConfigError
from galaxray.models.weights import load_model
from galaxray.synthetic import LABELS
from galaxray.training.builtin_tasks import ModelName, SkyTask, VAETask, dihedral, jitter, make_task
from galaxray.training.dataset import DatasetConfig, SkyDataset, generate, open_dataset
from galaxray.training.loop import LoopConfig, Trainer
from galaxray.training.program import run_program
from galaxray.training.task import Report
from galaxray.trees import load_tree

ROOT = Path(__file__).parents[2]
TINY = DatasetConfig(num=24, seed=60, view_size=32, min_pixels=32, max_pixels=40)
ONE_EPOCH = LoopConfig(epochs=1, batch_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sky")
    generate(TINY, path)
    return path


@pytest.fixture(scope="module")
def sky(folder: Path) -> SkyDataset:
    return open_dataset(folder)


def test_labels_of_the_sky_are_those_of_the_tree() -> None:
    assert load_tree("gz_decals_5").labels == LABELS


def test_dataset(sky: SkyDataset, tmp_path: Path) -> None:
    assert len(sky) == 24
    assert sky.images.std(axis=(1, 2, 3)).min() > 0
    assert (sky.votes[:, :3].sum(axis=1) == TINY.volunteers).all()
    np.testing.assert_allclose(sky.probabilities[:, :3].sum(axis=1), 1, rtol=1e-5)
    again = generate(TINY.model_copy(update={"num": 10}), tmp_path)
    np.testing.assert_array_equal(again.images, sky.images[:10])
    np.testing.assert_array_equal(again.masks, sky.masks[:10])


def test_a_folder_keeps_the_dataset_that_it_holds(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another config"):
        generate(TINY.model_copy(update={"seed": 61}), folder)
    with pytest.raises(ConfigError, match=r"make_dataset\.py"):
        open_dataset(tmp_path)


def test_symmetries_move_image_and_mask_together() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(16, 1, 5, 5, generator=generator)
    turned, masks = dihedral([images, 2 * images], generator)
    torch.testing.assert_close(masks, 2 * turned)
    torch.testing.assert_close(turned.flatten(1).sort().values, images.flatten(1).sort().values)
    same = (turned == images).flatten(1).all(1)
    assert int(same.sum()) == 2


def test_jitter_changes_images_a_little() -> None:
    images = torch.full((64, 3, 8, 8), 0.5)
    changed = jitter(images, torch.Generator().manual_seed(0))
    assert 0.02 < float((changed - images).abs().mean()) < 0.1


def trained(
    task: SkyTask, config: LoopConfig, report: Callable[[str, Report], None] = lambda kind, figures: None
) -> nn.Module:
    trainer = Trainer(task, config)
    trainer.train(report)
    return trainer.finished()


@pytest.mark.parametrize("name", ["classifier", "vae", "segmenter"])
def test_training_is_repeatable(name: ModelName, sky: SkyDataset) -> None:
    reports: list[tuple[str, Report]] = []
    models = []
    for _ in range(2):
        task = make_task(name, sky, sky, seed=3)
        models.append(trained(task, ONE_EPOCH, lambda kind, figures: reports.append((kind, figures))))
    first, second = (model.state_dict() for model in models)
    fresh = make_task(name, sky, sky, seed=3).model.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], fresh[key]) for key in first)
    assert [kind for kind, _ in reports] == ["step", "epoch"] * 2
    assert all(np.isfinite(value) for _, figures in reports for name, value in figures.items() if "iou" not in name)


def test_loss_falls(sky: SkyDataset) -> None:
    task = make_task("vae", sky, sky, seed=0)
    assert isinstance(task, VAETask)
    losses: list[float] = []

    def collect(kind: str, figures: Report) -> None:
        if kind == "step":
            losses.append(figures["loss"])

    trained(task, LoopConfig(epochs=12, batch_size=8, report_every_s=1e-9, bf16=False), collect)
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])


def test_finished_segmenter_is_cut_where_it_fits_best(sky: SkyDataset) -> None:
    task = make_task("segmenter", sky, sky, seed=0)
    model = trained(task, LoopConfig(epochs=100, batch_size=8, learning_rate=5e-3))
    before, bias = task.validate(model), model.final.bias.clone()
    after = task.validate(task.finished(model))
    assert not torch.equal(bias, model.final.bias)
    assert all(after[name] >= before[name] for name in ("validation_spiral_iou", "validation_bar_iou"))
    assert sum(after.values()) > sum(before.values())


def run(program: str, *arguments: str) -> None:
    run_program(importlib.import_module(f"training.{program}").Arguments, arguments)


def test_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    sizes = ["--num", "16", "--view-size", "32", "--min-pixels", "32", "--max-pixels", "40", "--processes", "1"]
    for name, seed in (("train", "61"), ("validation", "62"), ("test", "63")):
        run("make_dataset", "--output", f"data/sky-{name}", "--seed", seed, *sizes)
    for name in ("classifier", "vae", "segmenter"):
        run("train_builtin", "--model", name, "--epochs", "1", "--batch-size", "8")
        _, card = load_model(tmp_path / "data" / "models" / name)
        assert card["view"] == {"size": 32, "zoom": 1.0}
    run("train_builtin", "--model", "vae", "--epochs", "1", "--batch-size", "8", "--start-from", "data/models/vae")
    run("evaluate_builtin", "--models", "data/models/", "--update-cards")
    assert "mae_votes" in capsys.readouterr().out
    card = json.loads((tmp_path / "data" / "models" / "classifier.json").read_text())
    assert 0 <= card["metrics"]["synthetic"]["coverage"] <= 1


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("train_builtin", ["--model", "clasifier"], "--model 'clasifier': Input should be 'classifier'"),
        ("train_builtin", ["--model", "vae", "--train", "/nowhere"], "/nowhere holds no data set"),
        ("make_dataset", ["--num", "0"], "--num"),
    ],
)
def test_mistakes(
    program: str,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(SystemExit) as stopped:
        run(program, *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
