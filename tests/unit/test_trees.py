"""Decision trees: the labels of zoobot's own code, the corrections, and what makes a tree unsound."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from galaxy_datasets.shared import label_metadata
from zoobot.shared.schemas import Schema

from galaxray.errors import ConfigError
from galaxray.trees import DecisionTree, Question, load_tree, tree_from_labels, tree_names
from galaxray.trees.library import _campaigns
from galaxray.trees.tree import SUFFIXES

ZOOBOT = {
    "gz_decals_12": ("decals_dr12_ortho", "decals_ortho", 10, 30),
    "gz_decals_5": ("decals_dr5_ortho", "decals_ortho", 10, 34),
    "gz_decals_8": ("decals_dr8_ortho", "decals_ortho", 10, 34),
    "gz_desi": ("desi", "desi", 10, 34),
    "gz2": ("gz2_ortho", "gz2_ortho", 10, 30),
    "gz_ukidss": ("ukidss_ortho", "ukidss_ortho", 10, 30),
    "gz_hubble": ("hubble_ortho", "hubble_ortho", 12, 34),
    "gz_hubble_v2": ("hubble_v2_ortho", "hubble_v2_ortho", 9, 28),
    "gz_candels": ("candels_ortho", "candels_ortho", 11, 32),
    "gz_cosmic_dawn": ("cosmic_dawn_ortho", "cosmic_dawn_ortho", 13, 45),
    "gz_euclid": ("euclid_ortho", "euclid_ortho", 13, 46),
    "gz_jwst": ("jwst_ortho", "jwst_ortho", 12, 39),
    "gz_jwst_cosmos": ("jwst_cosmos_ortho", "jwst_cosmos_ortho", 11, 36),
    "gz_rings": ("rings", "rings", 1, 2),
}
COMBINED = {
    "gz_decals_all": ("decals_all_campaigns_ortho", "decals_ortho", 30, 98),
    "gz_evo_v1": ("gz_evo_v1", "gz_evo_v1", 76, 239),
    "gz_evo_v1_public": ("gz_evo_v1_public", "gz_evo_v1_public", 63, 194),
    "gz_evo_v2": ("gz_evo_v2", "gz_evo_v2", 86, 279),
    "gz_evo_v2_public": ("gz_evo_v2_public", "gz_evo_v2_public", 60, 188),
}
WITH_DANGLING = {"gz2", "gz_ukidss", "gz_hubble", "gz_hubble_v2"}


def test_all_14_trees_are_there():
    assert set(tree_names()) == set(ZOOBOT)
    assert set(tree_names(combined=True)) == set(ZOOBOT) | set(COMBINED)
    assert {data["suffix"] for data in _campaigns().values()} == {"", *SUFFIXES}


@pytest.mark.parametrize("name", [*ZOOBOT, *COMBINED])
def test_published_tree_is_zoobots(name):
    pairs_name, dependencies_name, num_questions, num_answers = (ZOOBOT | COMBINED)[name]
    pairs = getattr(label_metadata, f"{pairs_name}_pairs")
    dependencies = getattr(label_metadata, f"{dependencies_name}_dependencies")
    tree = load_tree(name)

    assert tree.labels == tuple(label_metadata.extract_questions_and_label_cols(pairs)[1])
    assert (len(tree.questions), len(tree)) == (num_questions, num_answers)
    for question, zoobot in zip(tree.questions, Schema(pairs, dependencies).questions, strict=True):
        assert question.name == zoobot.text
        assert (question.start, question.stop - 1) == (zoobot.start_index, zoobot.end_index)
        assert list(question.asked_after) == ([zoobot.asked_after.text] if zoobot.asked_after else [])
    # keys of other campaigns in the dictionary that zoobot shares among DECaLS campaigns are no fault of the tree
    if tree.suffix:
        unused = {q for q in dependencies if q not in pairs and q.endswith(tree.suffix)}
        assert set(tree.dangling) == unused


@pytest.mark.parametrize("name", ZOOBOT)
def test_faults_of_published_trees_are_dangling_dependencies_only(name):
    faults = load_tree(name).validate()
    if name in WITH_DANGLING:
        suffix = load_tree(name).suffix
        assert faults == (f"a dependency is given for edge-on-bulge{suffix}, which is not a question",)
    else:
        assert faults == ()


@pytest.mark.parametrize("name", tree_names(combined=True))
def test_corrected_trees_are_sound_and_keep_their_columns(name):
    corrected = load_tree(name, corrected=True)
    assert corrected.validate() == ()
    assert corrected.labels == load_tree(name).labels


@pytest.mark.parametrize(
    ("name", "question", "published", "corrected"),
    [
        ("gz2", "bar", ["smooth-or-featured-gz2_featured-or-disk"], ["disk-edge-on-gz2_no"]),
        ("gz2", "bulge-size", ["smooth-or-featured-gz2_featured-or-disk"], ["disk-edge-on-gz2_no"]),
        ("gz_ukidss", "has-spiral-arms", ["smooth-or-featured-ukidss_featured-or-disk"], ["disk-edge-on-ukidss_no"]),
        ("gz_hubble", "spiral-winding", ["disk-edge-on-hubble_no"], ["has-spiral-arms-hubble_yes"]),
        ("gz_candels", "spiral-arm-count", ["disk-edge-on-candels_no"], ["has-spiral-arms-candels_yes"]),
        ("gz_desi", "merging", [], ["smooth-or-featured_smooth", "smooth-or-featured_featured-or-disk"]),
    ],
)
def test_corrections(name, question, published, corrected):
    assert list(load_tree(name).question(question).asked_after) == published
    assert list(load_tree(name, corrected=True).question(question).asked_after) == corrected


def test_depth():
    assert load_tree("gz_rings").depth == 1
    assert load_tree("gz_decals_5").depth == 4  # smooth-or-featured, disk-edge-on, has-spiral-arms, spiral-winding
    assert load_tree("gz2").depth == 3
    assert load_tree("gz2", corrected=True).depth == 4
    assert load_tree("gz_candels", corrected=True).depth == 5


def test_names_are_forgiving_and_errors_name_the_nearest():
    assert load_tree("decals_dr5_ortho") == load_tree("gz-decals-5") == load_tree("GZ_DECaLS_5")
    with pytest.raises(ConfigError, match="do you mean 'gz_decals_5'"):
        load_tree("gz_decal_5")
    with pytest.raises(ConfigError, match="one of gz2, gz_candels"):
        load_tree("?")


@pytest.mark.parametrize("name", tree_names(combined=True))
def test_tree_from_labels(name):
    assert tree_from_labels(load_tree(name).labels) == load_tree(name)


def test_tree_from_labels_without_suffix_and_unknown():
    labels = label_metadata.extract_questions_and_label_cols(label_metadata.euclid_pairs)[1]
    tree = tree_from_labels(labels)
    assert tree.labels == tuple(labels)
    assert tree.question("clumps").asked_after == ("disk-edge-on_no",)
    with pytest.raises(ConfigError, match="gz_euclid shares 45 of its 46"):
        tree_from_labels(load_tree("gz_euclid").labels[:-1])


@pytest.mark.parametrize("name", tree_names(combined=True))
def test_card_round_trip(name):
    tree = load_tree(name, corrected=True)
    assert DecisionTree.from_dict(json.loads(json.dumps(tree.to_dict()))) == tree


def test_from_zoobot_schema():
    schema = Schema(label_metadata.gz2_ortho_pairs, label_metadata.gz2_ortho_dependencies)
    tree = DecisionTree.from_dict(vars(schema))
    assert tree.labels == load_tree("gz2").labels
    assert [q.asked_after for q in tree.questions] == [q.asked_after for q in load_tree("gz2").questions]
    assert tree.dangling == ("edge-on-bulge-gz2",)


def test_trees_are_frozen():
    with pytest.raises(FrozenInstanceError):
        load_tree("gz2").name = "mine"


def make(pairs, dependencies):
    return DecisionTree.from_dict({"name": "mine", "question_answer_pairs": pairs, "dependencies": dependencies})


def test_validate_reports_each_fault():
    assert make({"a": ["x", "z"]}, {"a": None, "b": "a_x"}).validate() == (
        "a dependency is given for b, which is not a question",
    )
    assert make({"a": ["x", "w"], "b": ["y", "w"]}, {"a": None, "b": "a_z"}).validate() == (
        "b is asked after a_z, which is not an answer",
        "no way leads to b",
    )
    assert make({"a": ["x", "w"], "b": ["y", "w"]}, {"a": "b_y", "b": "a_x"}).validate() == ("no way leads to a, b",)
    assert make({"a": ["x"]}, {"a": None}).validate() == ("a leaves no choice of answers",)
    twice = DecisionTree("mine", (Question("a", ("x", "y"), 0), Question("a", ("x", "z"), 3)))
    assert twice.validate() == ("a_x is there more than once", "a begins at column 3, not 2")
    with pytest.raises(ConfigError, match="no entry for b in dependencies"):
        make({"a": ["x"], "b": ["y"]}, {"a": None})


def test_unsound_trees_are_refused_where_they_matter():
    circle = make({"a": ["x"], "b": ["y"]}, {"a": "b_y", "b": "a_x"})
    with pytest.raises(ConfigError, match="no way leads to a, b"):
        circle.proportion_asked(np.ones((1, 2)))
    with pytest.raises(ConfigError, match="not a tree"):
        _ = circle.depth


def test_question_by_stem_is_unique():
    assert load_tree("gz_decals_5").question("bar").name == "bar-dr5"
    assert load_tree("gz_decals_5").column("bar-dr5_weak") == 8
    with pytest.raises(KeyError, match="3 questions of gz_decals_all are called 'bar'"):
        load_tree("gz_decals_all").question("bar")


def random_fractions(tree, rows, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.dirichlet(np.ones(len(q.answers)), rows) for q in tree.questions], axis=1)


@pytest.mark.parametrize("name", [*ZOOBOT, *COMBINED])
def test_proportion_asked_is_zoobots(name):
    from zoobot.shared.stats import get_expected_votes_ml

    tree = load_tree(name)
    pairs_name, dependencies_name, _, _ = (ZOOBOT | COMBINED)[name]
    schema = Schema(
        getattr(label_metadata, f"{pairs_name}_pairs"), getattr(label_metadata, f"{dependencies_name}_dependencies")
    )
    fractions = random_fractions(tree, 7)
    theirs = [get_expected_votes_ml(fractions, q, 1, schema, round_votes=False) for q in schema.questions]
    np.testing.assert_allclose(tree.proportion_asked(fractions), np.stack(theirs, axis=1), rtol=1e-12)


def test_proportion_asked_sums_over_several_parents():
    tree = load_tree("gz_decals_5", corrected=True)
    fractions = random_fractions(tree, 50)
    asked = dict(zip([q.stem for q in tree.questions], tree.proportion_asked(fractions).T, strict=True))
    np.testing.assert_allclose(asked["merging"], 1 - fractions[:, 2])
    np.testing.assert_allclose(asked["bar"], fractions[:, 1] * fractions[:, 4])
    np.testing.assert_allclose(asked["spiral-winding"], fractions[:, 1] * fractions[:, 4] * fractions[:, 5])


def test_proportion_asked_agrees_with_volunteers_who_walk_the_tree():
    """Each volunteer goes down the corrected tree, answer by answer; count who meets which question."""
    tree = load_tree("gz_candels", corrected=True)
    fractions = random_fractions(tree, 1)
    rng = np.random.default_rng(1)
    volunteers = 20_000
    choice = {q.name: rng.choice(len(q.answers), volunteers, p=fractions[0, q.start : q.stop]) for q in tree.questions}

    def was_asked(question):
        if not question.asked_after:
            return np.ones(volunteers, bool)
        parents = [(tree.question(label.split("_")[0]), label) for label in question.asked_after]
        return np.any(
            [was_asked(p) & (choice[p.name] == p.labels.index(label)) for p, label in parents],
            axis=0,
        )

    walked = [was_asked(q).mean() for q in tree.questions]
    np.testing.assert_allclose(tree.proportion_asked(fractions)[0], walked, atol=0.015)


def test_proportion_asked_passes_nan_and_refuses_other_shapes():
    tree = load_tree("gz_decals_5")
    fractions = random_fractions(tree, 2)
    fractions[1] = np.nan
    asked = tree.proportion_asked(fractions)
    assert np.isfinite(asked[0]).all()
    assert np.isnan(asked[1]).all()
    with pytest.raises(ValueError, match=r"shape \(N, 34\)"):
        tree.proportion_asked(fractions[:, :-1])
