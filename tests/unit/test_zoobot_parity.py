"""Our outputs equal zoobot's own, on checkpoints that zoobot wrote and on the same JPEG files, without any network."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from benchmarks.zoobot_models import Kind, make_checkpoint, make_jpegs, predict_with_zoobot
from galaxray import models, posterior
from galaxray.config import ClassifierConfig
from galaxray.images import decode
from galaxray.trees import load_tree

TOLERANCE = 1e-3
SIZES = (424, 423, 256)  # what Galaxy Zoo, SDSS and the cutout service serve

Case = tuple[Kind, str, dict[str, Any]]
FAST: list[Case] = [
    ("tree", "efficientnet_b0", {}),
    ("classifier", "resnet18", {"class_weights": [1.0, 2.0, 3.0, 4.0]}),
    ("regressor", "resnet18", {"unit_interval": True}),
]
SLOW: list[Case] = [
    ("tree", "convnext_nano", {}),
    ("classifier", "convnext_nano", {}),
    ("regressor", "convnext_nano", {}),
    ("classifier", "efficientnet_b0", {}),
    ("regressor", "efficientnet_b0", {}),
    ("tree", "resnet18", {"greyscale": True}),
    ("tree", "vit_tiny_patch16_224", {}),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return [path for size in SIZES for path in make_jpegs(folder / str(size), 6, size)]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> NoReturn:
        raise AssertionError(f"the network was asked for {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: refuse(None, host))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("kind", "arch", "options"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_zoobot_parity(kind: Kind, arch: str, options: dict[str, Any], pictures: list[Path], tmp_path: Path) -> None:
    checkpoint = make_checkpoint(kind, arch, tmp_path / f"{kind}.ckpt", pictures, **options)
    # With its regressor zoobot fails where the last batch has one image.
    theirs = predict_with_zoobot(kind, arch, checkpoint, pictures, batch_size=9)

    # zoobot calls a regressor's target "label", which is another column of our table
    config = ClassifierConfig(labels=("stellar_mass",) if kind == "regressor" else None)
    model = models.load_classifier([str(checkpoint)], config, "cpu", "fp32")
    images = np.stack([model.view.apply(decode(path.read_bytes())) for path in pictures])
    ours = model.predict(images, np.arange(len(images)))[:, :, 0]

    assert ours.shape == theirs.shape
    if kind == "tree":
        tree = load_tree("gz_decals_5")
        assert model.tree == tree
        assert np.abs(ours / theirs - 1).max() < TOLERANCE
        ours, theirs = posterior.fractions(ours[:, :, None], tree), posterior.fractions(theirs[:, :, None], tree)
    assert np.median(theirs.std(axis=0)) > 0.05, "the model does not tell galaxies apart: nothing is tested"
    assert np.abs(ours - theirs).max() < TOLERANCE
