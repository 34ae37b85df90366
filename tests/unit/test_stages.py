from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from galaxray import images
from galaxray.batches import text_array
from galaxray.config import SegmenterConfig
from galaxray.images import View
from galaxray.stages import Classify, Decode, Embed, Segment
from galaxray.trees import load_tree

VIEW = View(size=32)
TREE = load_tree("gz_decals_5")


def jpeg(seed: int, size: int = 64) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def fetched(contents: list[bytes | None]) -> dict[str, np.ndarray]:
    count = len(contents)
    return {
        "row_index": np.arange(100, 100 + count),
        "object_id": text_array([f"g{i}" for i in range(count)]),
        "status": text_array(["ok" if content else "unreachable" for content in contents]),
        "error": text_array([None if content else "no answer" for content in contents]),
        "image_bytes": text_array(contents),
        "pixel_scale_arcsec": np.full(count, 0.5),
    }


def decoded(contents: list[bytes | None]) -> dict[str, np.ndarray]:
    return Decode([VIEW])(fetched(contents))


class MeanClassifier:
    """Tells a galaxy's mean brightness; fails on the rows that it is told to."""

    view, task, tree, labels = VIEW, "regression", None, ("brightness",)

    def __init__(self, fails_on: frozenset[int] = frozenset()) -> None:
        self.fails_on = fails_on

    def predict(self, images: np.ndarray, row_index: np.ndarray) -> np.ndarray:
        if self.fails_on & set(row_index.tolist()):
            raise RuntimeError("out of memory")
        return images.mean(axis=(1, 2, 3), dtype=np.float32).reshape(-1, 1, 1)


class TreeClassifier:
    view, task, tree, labels = VIEW, "tree", TREE, TREE.labels

    def __init__(self, featured: list[float]) -> None:
        self.featured = featured

    def predict(self, images: np.ndarray, row_index: np.ndarray) -> np.ndarray:
        concentrations = np.full((len(images), len(TREE.labels), 1), 2.0, np.float32)
        for i, row in enumerate(row_index):
            share = self.featured[row - 100]
            concentrations[i, :3, 0] = 50 * (1 - share) + 1, 50 * share + 1, 1
            concentrations[i, 3:5, 0] = 1, 50  # not edge-on
        return concentrations


class BarSegmenter:
    view = VIEW

    def segment(self, images: np.ndarray) -> np.ndarray:
        masks = np.zeros((len(images), 2, 32, 32), np.uint8)
        masks[:, 1, 15:17, 8:24] = 255  # 16 pixels from east to west
        return masks


class FlatEmbedder:
    view, dim = VIEW, 3

    def embed(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((len(images), 3), np.float32), np.zeros(len(images), np.float32)


def test_a_bad_image_fails_its_row_alone():
    batch = decoded([jpeg(0), b"<html>", None, jpeg(1)[:500], jpeg(2)])
    assert batch["status"].tolist() == ["ok", "corrupt", "unreachable", "corrupt", "ok"]
    assert batch["error"][2] == "no answer"
    assert batch["error"][1]
    assert batch["image_width"].tolist() == [64, 0, 0, 0, 64]
    assert batch[VIEW.key].shape == (5, 32, 32, 3)
    assert not batch[VIEW.key][1].any()
    assert batch[VIEW.key][4].any()
    assert "image_bytes" not in batch


def test_stages_leave_their_input_alone():
    batch = fetched([jpeg(0), None])
    for array in batch.values():
        array.flags.writeable = False
    after = Classify(MeanClassifier())(Decode([VIEW])(batch))
    assert "brightness" in after
    assert "brightness" not in batch


def test_each_view_is_made_once_and_pictures_are_kept():
    batch = Decode([VIEW, View(size=16), View(size=32)], thumbnail_every=2)(fetched([jpeg(i) for i in range(4)]))
    assert {key for key in batch if key.startswith("image_") and batch[key].ndim == 4} == {VIEW.key, View(size=16).key}
    assert [picture is not None for picture in batch["thumbnail"]] == [True, False, True, False]
    assert Image.open(io.BytesIO(batch["thumbnail"][0])).size == (64, 64)


def test_predictions_only_for_rows_that_are_ok():
    batch = Classify(MeanClassifier())(decoded([jpeg(0), None, jpeg(1)]))
    assert np.isnan(batch["brightness"][1])
    assert batch["brightness"][0] == pytest.approx(batch[VIEW.key][0].mean(), rel=1e-5)


def test_a_model_that_fails_on_one_galaxy_fails_no_other():
    batch = Classify(MeanClassifier(frozenset({101})))(decoded([jpeg(0), jpeg(1), jpeg(2)]))
    assert batch["status"].tolist() == ["ok", "model_error", "ok"]
    assert batch["error"][1] == "RuntimeError: out of memory"
    assert np.isfinite(batch["brightness"][[0, 2]]).all()
    assert np.isnan(batch["brightness"][1])


def test_a_unit_without_one_good_image_has_the_same_columns():
    stages = Classify(TreeClassifier([0.9] * 4)), Embed(FlatEmbedder()), Segment(BarSegmenter(), SegmenterConfig())
    good, bad = decoded([jpeg(0), jpeg(1)]), decoded([None, b"junk"])
    for stage in stages:
        good, bad = stage(good), stage(bad)
    assert list(good) == list(bad)
    assert {name: values.dtype for name, values in good.items()} == {name: values.dtype for name, values in bad.items()}


def test_tree_columns_are_zoobots():
    batch = Classify(TreeClassifier([0.9]))(decoded([jpeg(0)]))
    for name in ("_fraction", "_90pc-lower", "_90pc-upper"):
        assert f"smooth-or-featured-dr5_featured-or-disk{name}" in batch
    assert batch["smooth-or-featured-dr5_proportion-asked"][0] == 1
    assert batch["smooth-or-featured-dr5_featured-or-disk_fraction"][0] == pytest.approx(46 / 53, rel=1e-5)


def test_only_face_on_featured_galaxies_are_segmented():
    batch = Classify(TreeClassifier([0.9, 0.1]))(decoded([jpeg(0), jpeg(1)]))
    segmented = Segment(BarSegmenter(), SegmenterConfig())(batch)
    assert [mask is not None for mask in segmented["bar_mask"]] == [True, False]
    every = Segment(BarSegmenter(), SegmenterConfig(where="all"))(batch)
    assert all(mask is not None for mask in every["bar_mask"])


def test_masks_are_measured_on_the_sky():
    batch = Segment(BarSegmenter(), SegmenterConfig())(decoded([jpeg(0)]))
    # 64 pixels of 0.5 arcsec seen at 32: 1 arcsec per mask pixel
    assert batch["bar_length_arcsec"][0] == pytest.approx(4 * np.sqrt((16**2 - 1) / 12), rel=0.1)
    assert batch["bar_angle_deg"][0] == pytest.approx(90, abs=1)
    assert batch["bar_fraction"][0] == pytest.approx(32 / 1024)
    assert Image.open(io.BytesIO(batch["bar_mask"][0])).size == (32, 32)


def test_an_image_that_cannot_be_held_in_memory_fails_its_row_alone(monkeypatch):
    decode = images.decode

    def decode_small(data: bytes, max_pixels: int) -> np.ndarray:
        if data == b"huge":
            raise MemoryError("array of 13 GB")
        return decode(data, max_pixels)

    monkeypatch.setattr(images, "decode", decode_small)
    batch = decoded([jpeg(0), b"huge", jpeg(1)])
    assert batch["status"].tolist() == ["ok", "corrupt", "ok"]
    assert batch["error"][1] == "MemoryError: array of 13 GB"


def test_images_are_checked_and_measured_without_models():
    batch = Decode([], keep=True)(fetched([jpeg(0), b"junk", None]))
    assert batch["status"].tolist() == ["ok", "corrupt", "unreachable"]
    assert batch["image_width"].tolist() == [64, 0, 0]
    assert batch["image"].tolist() == [jpeg(0), b"junk", None]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("task", ["tree", "classes", "regression"])
def test_outputs_that_are_not_finite_are_no_prediction(task, value):
    class Strange(TreeClassifier):
        def predict(self, images, row_index):
            raw = super().predict(images, row_index)
            raw[row_index == 101, 4] = value
            return raw

    strange = Strange([0.9] * 3)
    strange.task, strange.tree = task, TREE if task == "tree" else None
    batch = Classify(strange)(decoded([jpeg(0), jpeg(1), jpeg(2)]))
    assert batch["status"].tolist() == ["ok", "model_error", "ok"]
    assert batch["error"][1] == "FloatingPointError: the model's outputs are not finite"
    numbers = [values for values in batch.values() if values.dtype == np.float32]
    assert all(np.isnan(values[1]) and np.isfinite(values[[0, 2]]).all() for values in numbers)
    assert task != "classes" or batch["label"][1] is None


def test_an_embedding_that_is_not_finite_is_none():
    class Strange(FlatEmbedder):
        def embed(self, images):
            embedding, error = super().embed(images)
            embedding[:, 1][images.mean(axis=(1, 2, 3)) > 200] = np.nan
            return embedding, error

    batch = decoded([jpeg(0), jpeg(1)])
    batch[VIEW.key][1] = 255
    batch = Embed(Strange())(batch)
    assert batch["status"].tolist() == ["ok", "model_error"]
    assert np.isnan(batch["embedding"][1]).all()
