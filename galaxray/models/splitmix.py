"""Random numbers by position: SplitMix64's finalizer (Steele et al. 2014) on tensors of 64-bit words."""

from __future__ import annotations

from torch import Tensor

__all__ = ["mix", "shift_right", "signed"]


def mix(word: Tensor) -> Tensor:
    """64 well mixed bits of each word, int64."""
    word = (word ^ shift_right(word, 30)) * signed(0xBF58476D1CE4E5B9)
    word = (word ^ shift_right(word, 27)) * signed(0x94D049BB133111EB)
    return word ^ shift_right(word, 31)


def shift_right(word: Tensor, bits: int) -> Tensor:
    """Shift without sign: torch shifts signed numbers with theirs, and the hash is of unsigned ones."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def signed(word: int) -> int:
    """Number that has the bits of an unsigned 64-bit word, for torch.int64."""
    word &= 2**64 - 1
    return word - 2**64 if word >= 2**63 else word
