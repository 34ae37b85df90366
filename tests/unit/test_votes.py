"""Which question speaks, where a model has learned the votes of several campaigns."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from galaxray import posterior
from galaxray.batches import Batch, text_array
from galaxray.config import SegmenterConfig
from galaxray.report.classes import group
from galaxray.stages import Segment
from galaxray.trees import load_tree
from galaxray.votes import VoteShares, questions_of

TREE = load_tree("gz_evo_v1")


@pytest.fixture
def batch() -> Batch:
    """Two galaxies: the first campaign finds the first one featured and face-on, all others do not."""
    first = {question.stem: question for question in reversed(TREE.questions)}
    concentrations = np.ones((2, len(TREE), 1))
    for stem, answer in (("smooth-or-featured", "featured-or-disk"), ("disk-edge-on", "no")):
        concentrations[0, TREE.column(f"{first[stem].name}_{answer}")] = 90
    return posterior.columns(concentrations, TREE) | {"status": text_array(["ok", "ok"]), "row_index": np.arange(2)}


def test_questions_are_those_of_the_tree(batch: Batch) -> None:
    assert [question.labels for question in questions_of(batch)] == [question.labels for question in TREE.questions]


def test_the_first_campaign_speaks(batch: Batch) -> None:
    share = VoteShares(batch)
    featured = share("smooth-or-featured", "featured-or-disk", "features")
    assert featured is not None
    assert featured[0] == pytest.approx(90 / 92)
    assert share("smooth-or-featured", "nonsense") is share("nonsense", "yes") is None


def test_segmenter_and_report_go_by_the_same_votes(batch: Batch) -> None:
    class Blank:
        """A segmenter that notes how many galaxies it is shown."""

        view = SimpleNamespace(key="pixels", size=8, zoom=1.0)

        def segment(self, images: np.ndarray) -> np.ndarray:
            return np.zeros((len(images), 2, 8, 8), np.uint8)

    pixels = {"pixels": np.zeros((2, 8, 8, 3), np.uint8), "pixel_scale_arcsec": np.ones(2)}
    pixels |= {name: np.full(2, 8, np.int32) for name in ("image_width", "image_height")}
    segmented = Segment(Blank(), SegmenterConfig())(batch | pixels)
    assert [mask is not None for mask in segmented["spiral_mask"]] == [True, False]
    classes = group(batch)
    assert "Smooth" not in classes.names[classes.member[0]]
