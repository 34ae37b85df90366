"""Bounds for what a model file asks to be built: its numbers decide over memory and time before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MAX_OUTPUTS", "require_modest", "require_shapes"]

MAX_NUMBER = 4096
"""Largest number in an architecture: channels, pixels, dimensions. Galaxy models have up to 1,024 of anything."""
MAX_ITEMS = 64
MAX_OUTPUTS = 4096


def require_modest(architecture: Any) -> None:
    """Look through the arguments of a model's constructor.

    Raises
    ------
    ValueError
        If a number is beyond `MAX_NUMBER`, or a list longer than `MAX_ITEMS`.
    """
    if isinstance(architecture, Mapping | list | tuple):
        if len(architecture) > MAX_ITEMS:
            raise ValueError(f"{len(architecture)} items where {MAX_ITEMS} are the most")
        for value in architecture.values() if isinstance(architecture, Mapping) else architecture:
            require_modest(value)
    elif isinstance(architecture, int | float) and not abs(architecture) <= MAX_NUMBER:
        raise ValueError(f"{architecture} where {MAX_NUMBER} is the most")


def require_shapes(kind: type[nn.Module], architecture: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Build a model without memory, and compare it with the weights that are to go into it.

    Raises
    ------
    ValueError
        If a weight has another shape than the architecture says, or there are more or fewer of them.
    """
    try:
        with torch.device("meta"):
            expected = {name: tensor.shape for name, tensor in kind(**architecture).state_dict().items()}
    except (NotImplementedError, RuntimeError):  # some of timm's look at numbers as they are built, and meta has none
        return
    found = {name: tensor.shape for name, tensor in state.items()}
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            shapes = [tuple(of[name]) if name in of else "nothing" for of in (expected, found)]
            raise ValueError(f"{name} is {shapes[1]} in the file, and {shapes[0]} by the architecture")
