"""Training of the models in plain torch: labelled images, losses, a loop, scores. The programs in ``training/`` run it."""

from __future__ import annotations
