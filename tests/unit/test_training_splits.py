from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxray.errors import ConfigError
from galaxray.training.splits import fold_of, split_of

IDS = [f"J{number:06d}" for number in range(20_000)]
fractions = st.floats(0, 0.5)


def test_fractions_hold_in_the_mean():
    splits, counts = np.unique(split_of(IDS, val=0.15, test=0.05).astype(str), return_counts=True)
    shares = dict(zip(splits, counts / len(IDS), strict=True))
    assert shares == pytest.approx({"train": 0.8, "val": 0.15, "test": 0.05}, abs=0.01)


def test_the_identifier_alone_decides():
    """Neither the order of a catalogue, nor its size, nor the machine: these values must never change."""
    some = ["587727178986356823", "J103256.81-004809.9", "g0", "g13", "Ω"]
    assert split_of(some).tolist() == ["train", "train", "test", "val", "train"]
    assert fold_of(some, 5).tolist() == [3, 3, 2, 2, 2]
    assert split_of(IDS[::-7]).tolist() == split_of(IDS)[::-7].tolist()
    assert fold_of(IDS[::-7], 5).tolist() == fold_of(IDS, 5)[::-7].tolist()


def test_another_seed_draws_other_splits():
    assert (split_of(IDS, seed=1) != split_of(IDS)).mean() > 0.2
    assert (fold_of(IDS, 5, seed=1) != fold_of(IDS, 5)).mean() > 0.7


def test_folds_are_even_and_independent_of_the_splits():
    fold = fold_of(IDS, 5)
    assert np.bincount(fold) / len(IDS) == pytest.approx([0.2] * 5, abs=0.01)
    assert np.bincount(fold[split_of(IDS) == "test"]) / 2000 == pytest.approx([0.2] * 5, abs=0.05)


@given(fractions, fractions, fractions, fractions)
def test_no_galaxy_goes_from_test_to_validation_when_fractions_change(val, test, other_val, other_test):
    before, after = split_of(IDS[:300], val=val, test=test), split_of(IDS[:300], val=other_val, test=other_test)
    assert not ((before == "test") & (after == "val")).any()


def test_nobody_is_a_split_too():
    assert split_of([]).tolist() == []
    assert fold_of([], 3).tolist() == []
    assert set(split_of(IDS[:100], val=0, test=0)) == {"train"}
    assert set(split_of(IDS[:100], val=0, test=1)) == {"test"}


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.1), (0.6, 0.5), (float("nan"), 0.1)])
def test_fractions_that_are_none(val, test):
    with pytest.raises(ConfigError, match="together at most 1"):
        split_of(IDS[:1], val=val, test=test)


def test_one_fold_is_none():
    with pytest.raises(ConfigError, match="1 folds: at least 2"):
        fold_of(IDS[:1], 1)
