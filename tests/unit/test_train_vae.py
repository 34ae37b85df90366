"""Autoencoders end to end at a tiny size: an embedder that runs load, a killed training, a search for a latent size."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from galaxray.errors import ConfigError, RunMismatchError
from galaxray.models import load_embedder
from galaxray.models.weights import load_model
from galaxray.training.latent_classifiers import accuracies, by_logistic_regression, by_neighbours
from galaxray.training.latent_search import compare, folder_of
from galaxray.training.program import run_training
from galaxray.training.shards import write_shards
from galaxray.training.train_vae import VAESettings, train_vae

SIZE, GALAXIES = 16, 150


def picture(brightness: float, width: float, rng: np.random.Generator) -> bytes:
    """A round galaxy: two numbers and noise."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    profile = brightness * np.exp(-(x**2 + y**2) / (2 * width**2))
    pixels = np.clip(profile[:, :, None] * [1.0, 0.8, 0.6] + rng.normal(20, 2, (SIZE, SIZE, 3)), 0, 255)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("data") / "shards", np.random.default_rng(0)
    brightness, width = rng.uniform(60, 220, GALAXIES), rng.uniform(1.5, 4, GALAXIES)
    images = [picture(*numbers, rng) for numbers in zip(brightness, width, strict=True)]
    kind = np.where(width > 2.75, "wide", "narrow").tolist()
    table = {"object_id": [f"g{row}" for row in range(GALAXIES)], "image": images, "kind": kind, "width": width}
    write_shards(folder, [pa.table(table)], val=0.2, test=0.2)
    return folder


def settings(folder: Path, output: Path, **changes: object) -> VAESettings:
    given = {"data": str(folder), "output": output, "cache": folder.parent / "cache", "device": "cpu", "size": SIZE}
    quick = {"epochs": 4, "batch_size": 16, "learning_rate": 1e-2, "bf16": False, "channels": 4, "max_channels": 8}
    quick |= {"latent_dim": 4, "report_every_s": 1e-9, "ema_decay": 0.5}
    return VAESettings.model_validate(given | quick | changes)


def flags(folder: Path, output: Path, *more: str) -> list[str]:
    given = settings(folder, output).model_dump(mode="json", exclude_unset=True)
    words = [word for name, value in given.items() if name != "bf16" for word in (f"--{name}", str(value))]
    return [*words, "--no-bf16", *more]


def ignore(kind: str, figures: dict[str, float]) -> None:
    pass


def pixels(count: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    files = [picture(150, width, rng) for width in np.linspace(1.5, 4, count)]
    return np.stack([np.array(Image.open(io.BytesIO(file))) for file in files])


def test_what_comes_out_is_an_embedder(tmp_path: Path, data: Path) -> None:
    said = []
    chosen = settings(data, tmp_path / "m", latent_dim=5, epochs=40)
    weights = train_vae(chosen, lambda kind, figures: said.append((kind, figures)))
    embedder = load_embedder(str(weights), "cpu", "fp32")
    images = pixels(20)
    embedding, error = embedder.embed(images)
    assert embedding.shape == (20, 5)
    blank = np.square(images / 255 - (images / 255).mean(0)).mean()
    assert error.mean() < 0.5 * blank
    _, card = load_model(weights, "vae")
    assert card["architecture"]["latent_dim"] == 5
    assert card["view"] == {"size": SIZE, "zoom": 1.0}
    assert card["training"]["galaxies"].keys() == {"train", "val"}
    assert card["training"]["settings"]["beta"] == chosen.beta
    assert "output" not in card["training"]["settings"]
    epochs = [figures for kind, figures in said if kind == "epoch"]
    assert len(epochs) == 40
    last = epochs[-1]
    whole = last["mse"] * 3 * SIZE**2 + chosen.beta * last["kl"]
    assert last["validation_loss"] == pytest.approx(whole, rel=1e-4)
    assert last["mse"] < epochs[0]["mse"]


class Killed(BaseException):
    pass


def test_killed_and_run_again_it_ends_with_the_same_weights(tmp_path: Path, data: Path) -> None:
    whole = train_vae(settings(data, tmp_path / "whole"), ignore)
    again = settings(data, tmp_path / "again", save_every_s=1e-9)
    for kill in (2, 6, 9, 13):

        def report(kind: str, figures: dict[str, float], kill: int = kill) -> None:
            if kind == "step" and figures["step"] == kill:
                raise Killed

        with pytest.raises(Killed):
            train_vae(again, report)
        assert (tmp_path / "again" / "checkpoints" / "last.pt").exists()
    weights = train_vae(again, ignore)
    assert load_model(weights)[1]["sha256"] == load_model(whole)[1]["sha256"]
    histories = [json.loads((path.parent / "history.json").read_text()) for path in (whole, weights)]
    assert histories[0] == histories[1]


def test_a_folder_holds_one_training_whatever_the_latents_are_tested_on(tmp_path: Path, data: Path) -> None:
    first = train_vae(settings(data, tmp_path / "m", epochs=1), ignore)
    digest = load_model(first)[1]["sha256"]
    again = train_vae(settings(data, tmp_path / "m", epochs=1, column="kind"), ignore)
    assert load_model(again)[1]["sha256"] == digest
    with pytest.raises(RunMismatchError, match=r"latent_dim was 4, is 5"):
        train_vae(settings(data, tmp_path / "m", epochs=1, latent_dim=5), ignore)


def test_search_ends_with_a_table_and_plots(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from training.train_vae import TrainVAEProgram, run

    words = flags(data, tmp_path / "s", "--latent-dims", "1", "3", "--column", "kind", "--epochs", "25")
    assert run_training(TrainVAEProgram, run, words, program="train_vae.py") == 0
    said = capsys.readouterr().out
    assert "latent size 3\n" in said
    assert "| latent size | MSE" in said
    search = json.loads((tmp_path / "s" / "search.json").read_text())
    assert list(search["sizes"]) == ["1", "3"]
    assert search["split"] == "test"
    assert search["classes"] == ["narrow", "wide"]
    assert search["galaxies"]["held_out"] == search["galaxies"]["labelled"] < 60
    assert search["sizes"]["3"]["pca_mse"] < search["sizes"]["1"]["pca_mse"]
    assert search["sizes"]["3"]["mse"] < search["sizes"]["1"]["mse"]
    assert 1 <= search["sizes"]["3"]["active"] <= 3
    assert search["sizes"]["3"]["logistic"] > 0.8 > search["sizes"]["3"]["majority"]
    assert search["suggested"] in (1, 3)
    page = (tmp_path / "s" / "README.md").read_text()
    assert "--latent-dims 1 3" in page
    for name in ("error.png", "latent_space.png", "accuracy.png", "reconstructions.png"):
        with Image.open(tmp_path / "s" / name) as image:
            assert image.width > 300
        assert f"({name})" in page
    weights = tmp_path / "s" / search["models"]["3"]
    assert load_embedder(str(weights), "cpu", "fp32").embed(pixels(2))[0].shape == (2, 3)
    assert load_model(weights)[1]["metrics"]["mse"] == search["sizes"]["3"]["mse"]
    before = [(folder_of(tmp_path / "s", size) / "history.json").stat().st_mtime_ns for size in (1, 3)]
    assert run_training(TrainVAEProgram, run, words, program="train_vae.py") == 0
    after = [(folder_of(tmp_path / "s", size) / "history.json").stat().st_mtime_ns for size in (1, 3)]
    assert after == before
    assert json.loads((tmp_path / "s" / "search.json").read_text()) == search


def test_one_size_says_how_good_it_is(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from training.train_vae import TrainVAEProgram, run

    assert run_training(TrainVAEProgram, run, flags(data, tmp_path / "m"), program="train_vae.py") == 0
    said = capsys.readouterr().out
    assert f"model:   {tmp_path / 'm' / 'model.safetensors'}" in said
    card = load_model(tmp_path / "m" / "model.safetensors")[1]
    assert card["metrics"]["split"] == "test"
    assert f"{card['metrics']['mse']:.5f}" in said
    search = flags(data, tmp_path / "m", "--latent-dims", "2", "3")
    assert run_training(TrainVAEProgram, run, search, program="train_vae.py") == 2
    assert "holds the training of one size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (["--size", "100"], "size = '100': a power of two from 16 to 512, such as 64, 128 or 256"),
        (["--size", "8"], "a power of two"),
        (["--latent-dim", "0"], "latent_dim = '0': input should be greater than 0"),
        (["--latent-dims", "4", "0"], "--latent-dims 0: a latent size is a whole number from 1"),
        (["--latent-dims", "4", "4"], "--latent-dims names 4 twice"),
        (["--latent-dims", "4", "many"], "latent_dims = 'many': input should be a valid integer"),
        (["--zoom", "1.2345"], "--zoom 1.2345"),
        (["--column", "kin"], "did you mean 'kind'"),
        (["--rules", "a=width > 90", "--rules", "b=width > 95"], "no galaxy of the split 'train' is of any"),
        (["--where", "width > 90"], "none of"),
        (["--data", "nowhere"], "no finished data set"),
        (["--num-trials-at-once", "2"], "name the sizes with --latent-dims"),
        (["--num-trials-at-once", "2", "--latent-dims", "2", "3", "--num-workers", "2"], "one or the other"),
        (["--device", "tpu"], "--device tpu"),
        (["--beta", "-1"], "beta = '-1'"),
        (["--latent", "3"], "did you mean --latent_dim"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_begins(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], word: str
) -> None:
    from training.train_vae import TrainVAEProgram, run

    assert run_training(TrainVAEProgram, run, flags(data, tmp_path / "m", *wrong), program="train_vae.py") == 2
    said = capsys.readouterr().err
    assert word in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "m").exists()


def test_without_a_test_split_validation_is_held_out(tmp_path: Path, data: Path) -> None:
    rng = np.random.default_rng(3)
    images = [picture(150, width, rng) for width in rng.uniform(1.5, 4, 40)]
    table = pa.table({"object_id": [f"n{row}" for row in range(40)], "image": images})
    write_shards(tmp_path / "shards", [table], val=0.3, test=0)
    chosen = settings(tmp_path / "shards", tmp_path / "m", epochs=1)
    searched = compare(chosen, {4: train_vae(chosen, ignore)})
    assert searched.split == "val"
    assert searched.classes == ()
    assert searched.originals.dtype == searched.reconstructions[4].dtype == np.uint8
    with pytest.raises(ConfigError, match="no label column"):
        train_vae(chosen.model_copy(update={"column": "kind"}), ignore)


def test_simple_classifiers_tell_classes_apart_and_do_not_tell_noise() -> None:
    rng = np.random.default_rng(1)
    classes = rng.integers(0, 3, 400)
    centres = np.array([[2.0, 0, 0], [0, 2, 0], [0, 0, 2]])
    latents = centres[classes] + rng.normal(0, 0.5, (400, 3))
    parts = latents[:300], classes[:300], latents[300:]
    for guess in (by_neighbours(*parts), by_logistic_regression(*parts)):
        assert (guess == classes[300:]).mean() > 0.95
    # an intercept: classes that are not about zero
    assert (by_logistic_regression(latents[:300] + 10, classes[:300], latents[300:] + 10) == classes[300:]).mean() > 0.9
    noise = rng.normal(size=(400, 3))
    rare = (rng.random(400) < 0.2).astype(np.int64)
    figures = accuracies(noise[:300], rare[:300], noise[300:], rare[300:])
    assert figures["majority"] == pytest.approx((rare[300:] == 0).mean())
    for name in ("knn", "logistic"):
        assert figures[name] <= figures["majority"] + 3 * figures[f"{name}_error"]
        assert figures[f"{name}_balanced"] < 0.65


def test_fewer_training_galaxies_than_neighbours() -> None:
    train, classes = np.array([[0.0], [1.0], [1.1]]), np.array([0, 1, 1])
    assert by_neighbours(train, classes, np.array([[0.1]])).tolist() == [1]
    assert by_neighbours(train, classes, np.array([[0.1]]), neighbours=1).tolist() == [0]
