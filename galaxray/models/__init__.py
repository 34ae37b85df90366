"""The models, in plain torch: classifier, variational autoencoder and UNet, and the files that they come from."""

from __future__ import annotations

from galaxray.models.engine import choose_precision, set_num_threads
from galaxray.models.load import load_classifier, load_embedder, load_segmenter
from galaxray.models.predictors import Classifier, Embedder, Segmenter

__all__ = [
    "Classifier",
    "Embedder",
    "Segmenter",
    "choose_precision",
    "load_classifier",
    "load_embedder",
    "load_segmenter",
    "set_num_threads",
]
