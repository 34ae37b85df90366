"""Training of the models in plain torch: labelled images, losses, a loop, scores. Programs are in ``training/``."""

from __future__ import annotations
