from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from galaxray.errors import ConfigError
from galaxray.training.conditions import evaluate
from galaxray.training.labelled_images import LabelledImages
from galaxray.training.labels import LabelSpec, output_names, select, targets_for
from galaxray.training.vote_counts import count_votes, vote_columns
from galaxray.trees import load_tree, tree_names

NAN = float("nan")
TREE = load_tree("gz_decals_5")
COLUMNS: dict[str, Any] = {
    "T": [-3, -1, 0, 4, 7, None],
    "radius": [0.5, None, 1.5, 2.0, 2.5, 3.0],
    "ring": ["yes", "no", None, "yes", "no", "no"],
    "bar-dr5_strong": [5, 0, 0, 1, 2, 3],
}


def images_of(columns: Mapping[str, Any] = COLUMNS) -> LabelledImages:
    """Galaxies without images."""
    num = len(next(iter(columns.values())))
    table = pa.table({"object_id": [f"g{number}" for number in range(num)], **columns})
    return LabelledImages([], table, np.zeros(num, np.int32), np.arange(num), "")


def votes_of(rows: int = 3) -> dict[str, Any]:
    """Columns with the votes of ten volunteers, who all found a smooth and round galaxy."""
    columns = {label: np.zeros(rows) for label in TREE.labels}
    columns["smooth-or-featured-dr5_smooth"] += 10
    columns["how-rounded-dr5_round"] += 10
    return columns


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("T <= -1", [0, 1]),
        ("1 <= T <= 7", [3, 4]),
        ("T != 0", [0, 1, 3, 4]),
        ("not T == 0", [0, 1, 3, 4, 5]),
        ("ring == 'yes'", [0, 3]),
        ("ring != 'yes'", [1, 4, 5]),
        ("ring in ['yes', 'perhaps']", [0, 3]),
        ("ring not in ['yes']", [1, 4, 5]),
        ("T in [0, 4, 9]", [2, 3]),
        ("T in [-3]", [0]),
        ("T in []", []),
        ("`bar-dr5_strong` >= 2 and T > 0", [4]),
        ("(T < 0) | (radius >= 3)", [0, 1, 5]),
        ("(T < 0) & ~(radius == 0.5)", [1]),
        ("T < 0 or radius > 2 and ring == 'no'", [0, 1, 4, 5]),
        ("radius > T", [0, 2]),
        ("0 < T", [3, 4]),
        ("\n  T > 0  ", [3, 4]),
    ],
)
def test_conditions(condition, rows):
    assert np.flatnonzero(evaluate(condition, images_of().label)).tolist() == rows


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("T <", "invalid syntax"),
        ("T", "'T' is no comparison"),
        ("3 < 4", "a comparison needs a column"),
        ("T == 'x'", "a column of numbers is compared with 'x'"),
        ("ring > 3", "a column of text is compared with 3"),
        ("ring == T", "is compared with another column"),
        ("t <= 1", "no label column 't'; did you mean 'T'"),
        ("__import__('os').system('true') == 0", "is neither column, number nor text"),
        ("T.__class__ == 1", "'T.__class__' is neither"),
        ("T + 1 == 2", "'T + 1' is neither"),
        ("T is 1", "only <, <=, >, >=, ==, != and in"),
        ("T in ring", "'in' takes a column and a list"),
        ("T == True", "'True' is neither"),
        ("", "invalid syntax"),
        ("(" * 9000 + "T" + ")" * 9000, "of more than"),
        ("(" * 3000 + "T" + ")" * 3000, "condition"),
        ("T \x00 1", "condition"),
    ],
)
def test_conditions_that_cannot_be_read(condition, message):
    with pytest.raises(ConfigError) as caught:
        evaluate(condition, images_of().label)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.text(max_size=40))
@example("1is 2")
def test_no_text_does_more_than_select_or_be_refused(condition):
    try:
        mask = evaluate(condition, images_of().label)
    except ConfigError:
        return
    assert mask.shape == (6,)
    assert mask.dtype == bool


def test_selection():
    assert select(images_of(), "T > 0").object_id.tolist() == ["g3", "g4"]
    assert len(select(images_of(), None)) == 6
    with pytest.raises(ConfigError, match="none of 6 galaxies fulfils it"):
        select(images_of(), "T > 100")


def test_classes_of_a_column():
    spec = LabelSpec(column="ring")
    assert output_names("classes", images_of(), spec) == ("no", "yes")
    assert targets_for("classes", images_of(), spec).tolist() == [1, 0, -1, 1, 0, 0]
    backwards = LabelSpec(column="ring", classes=("yes", "no"))
    assert targets_for("classes", images_of(), backwards).tolist() == [0, 1, -1, 0, 1, 1]


def test_classes_may_be_numbers_and_come_in_their_order():
    images = images_of({"kind": [10, 9, 2, None, 10]})
    spec = LabelSpec(column="kind")
    assert output_names("classes", images, spec) == ("2", "9", "10")
    assert targets_for("classes", images, spec).tolist() == [2, 1, 0, -1, 2]


def test_classes_by_rules():
    spec = LabelSpec(rules={"spiral": "1 <= T <= 7", "early": "T <= -1"})
    assert output_names("classes", images_of(), spec) == ("spiral", "early")
    assert targets_for("classes", images_of(), spec).tolist() == [1, 1, -1, 0, 0, -1]


@pytest.mark.parametrize(
    ("task", "spec", "message"),
    [
        ("tree", LabelSpec(), "task tree needs a decision tree"),
        ("classes", LabelSpec(), "task classes needs a column with the class, or rules"),
        ("classes", LabelSpec(classes=("a", "b")), "needs a column with the class"),
        ("regression", LabelSpec(), "task regression needs columns with targets"),
        ("classes", LabelSpec(column="rings"), "no label column 'rings'; did you mean 'ring'"),
        ("classes", LabelSpec(column="ring", classes=("yess", "no")), "'yes' for object g0: did you mean 'yess'"),
        ("classes", LabelSpec(column="T", classes=("a", "b")), "holds '-3' for object g0: the classes are a, b"),
        ("classes", LabelSpec(rules={"a": "T > 0"}), "two classes at least, not a"),
        ("classes", LabelSpec(rules={"a": "T > 0", "b": "T > 3"}), "object g3 fulfils the rules of a and of b"),
        ("classes", LabelSpec(rules={"a": "T > 0", "b": "T < 0"}, column="T"), "give one or the other"),
        ("classes", LabelSpec(rules={"a": "T > 0", "b": "T < 0"}, classes=("a", "c")), "give one or the other"),
        ("regression", LabelSpec(targets=("ring",)), "column 'ring' holds yes for object g0: a target is a number"),
        ("tree", LabelSpec(tree="gz_decals_5"), "question bar-dr5 of gz_decals_5 has column 'bar-dr5_strong' but none"),
        ("tree", LabelSpec(tree="gz2"), "no column has votes on gz2"),
        ("tree", LabelSpec(tree="gz_decal_5"), "do you mean 'gz_decals_5'"),
    ],
)
def test_what_does_not_fit_is_one_line(task, spec, message):
    with pytest.raises(ConfigError) as caught:
        targets_for(task, images_of(), spec)
    assert message in str(caught.value)
    assert caught.value.exit_status == 2


def test_a_column_of_identifiers_is_no_class():
    images = images_of({"many": [str(number) for number in range(1500)]})
    with pytest.raises(ConfigError, match="1,500 different values: no class"):
        output_names("classes", images, LabelSpec(column="many"))


def test_regression():
    targets = targets_for("regression", images_of(), LabelSpec(targets=("radius", "T")))
    assert targets.dtype == np.float32
    np.testing.assert_equal(targets[:2], np.array([[0.5, -3], [NAN, -1]], np.float32))
    with pytest.raises(ConfigError, match="column 'x' holds inf for object g1: a target is finite"):
        targets_for("regression", images_of({"x": [0.0, float("inf")]}), LabelSpec(targets=("x",)))


def test_votes_in_the_order_of_the_tree():
    columns = {label: [number, None] for number, label in enumerate(reversed(TREE.labels))}
    columns["smooth-or-featured-dr5_smooth"] = [1000, None]
    votes = targets_for("tree", images_of(columns), LabelSpec(tree="gz_decals_5"))
    assert votes.dtype == np.int64
    assert votes[0].tolist() == [1000, *range(len(TREE) - 2, -1, -1)]
    assert not votes[1].any()


@pytest.mark.parametrize("name", tree_names(combined=True))
def test_votes_on_every_tree(name):
    tree = load_tree(name)
    columns = {label: np.ones(2) for label in tree.labels}
    for question in tree.questions:
        if not question.asked_after:
            columns[question.labels[0]] = np.array([100.0, 100.0])
    assert vote_columns(tree.labels, tree) == {label: label for label in tree.labels}
    assert count_votes(columns, ["a", "b"], tree).sum(axis=1).min() >= len(tree)


def test_columns_without_the_suffix_and_questions_that_were_not_asked():
    columns = ["smooth-or-featured_smooth", "smooth-or-featured_featured-or-disk", "smooth-or-featured_artifact", "x"]
    found = vote_columns(columns, TREE)
    assert list(found.values()) == columns[:3]
    assert list(found) == list(TREE.labels[:3])
    with pytest.raises(ConfigError, match="no column has votes on gz_decals_all"):  # of which campaign?
        vote_columns(columns, load_tree("gz_decals_all"))
    votes = count_votes({label: np.array([3.0, NAN]) for label in found}, ["a", "b"], TREE)
    assert votes.sum(axis=1).tolist() == [9, 0]


@pytest.mark.parametrize(
    ("label", "values", "message"),
    [
        ("bar-dr5_strong", [0, -1, 0], "column 'bar-dr5_strong' holds -1 for object b: votes count from 0 on"),
        ("bar-dr5_strong", [0, 0, 0.5], "'bar-dr5_strong' holds 0.5 for object c: votes are whole numbers"),
        ("bar-dr5_strong", [0, float("inf"), 0], "holds inf for object b"),
        ("bar-dr5_strong", [0, 11, 0], "object b has 11 answers to bar-dr5 from 10 volunteers"),
    ],
)
def test_votes_that_cannot_be(label, values, message):
    columns = votes_of() | {label: np.array(values, float)}
    with pytest.raises(ConfigError) as caught:
        count_votes(columns, ["a", "b", "c"], TREE)
    assert message in str(caught.value)


def test_votes_that_are_text():
    columns = votes_of() | {"bar-dr5_no": np.array([None, "many", None], object)}
    with pytest.raises(ConfigError, match="'bar-dr5_no' holds 'many' for object b: votes are numbers"):
        count_votes(columns, ["a", "b", "c"], TREE)


def test_voters_of_one_campaign_are_not_those_of_another():
    tree = load_tree("gz_decals_all")
    columns = {label: np.zeros(1) for label in tree.labels}
    columns["smooth-or-featured-dr5_smooth"] += 40
    columns["smooth-or-featured-dr12_smooth"] += 5
    columns["bar-dr12_yes"] += 6
    with pytest.raises(ConfigError, match="6 answers to bar-dr12 from 5 volunteers"):
        count_votes(columns, ["a"], tree)
