"""What a training says while it goes on: a line every few seconds, and one after each epoch."""

from __future__ import annotations

from datetime import timedelta

from galaxray.training.task import Report

__all__ = ["say"]


def say(kind: str, figures: Report) -> None:
    """Print the figures of a step or an epoch."""
    if kind == "step":
        left = timedelta(seconds=round(figures["eta_s"]))
        text = (
            f"step {figures['step']:,.0f} of {figures['steps']:,.0f}: loss {figures['loss']:.4g}, "
            f"{figures['images_per_s']:,.0f} images/s, {left} to go"
        )
    else:
        others = {name: value for name, value in figures.items() if name not in ("epoch", "waiting")}
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in others.items())
        text = f"epoch {figures['epoch']:.0f}: {shown}; {figures['waiting']:.0%} of the time waited for images"
    print(text, flush=True)
