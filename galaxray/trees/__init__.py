"""Galaxy Zoo decision trees: which questions volunteers are asked, and after which answers."""

from __future__ import annotations

from galaxray.trees.library import load_tree, tree_from_labels, tree_names
from galaxray.trees.tree import DecisionTree, Question

__all__ = ["DecisionTree", "Question", "load_tree", "tree_from_labels", "tree_names"]
