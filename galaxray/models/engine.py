"""How a model is run: device, precision, layout and batches."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from galaxray.errors import ConfigError
from galaxray.memory import keep_freed_memory, worker_environment

__all__ = ["Engine", "choose_precision", "set_num_threads", "worker_environment"]

Precision = Literal["auto", "fp32", "bf16"]
Module = TypeVar("Module", bound=nn.Module)

CPU_BATCH = 16
# From 16 images torch gives 1x1 convolutions to oneDNN, also on one thread: twice as fast; more are no faster.
GPU_BATCH = 256


def set_num_threads(count: int) -> None:
    """Let each model of this process use so many threads on a CPU; to be called before it is loaded."""
    torch.set_num_threads(count)


class Engine:
    """Runs models on one device with one precision.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"}
        ``auto`` takes a GPU if there is one.
    precision : {"auto", "fp32", "bf16"}
        ``bf16`` computes convolutions and matrix products with 8 bits of mantissa; heads, and what adds up, stay in
        32 bits. ``auto`` is bf16 where the hardware has it, otherwise fp32: it moves the vote fractions of the
        built-in classifier by 0.0007 in the mean and 0.035 at most (400 galaxies), where their 90 % intervals are
        +-0.09, and on a CPU takes two thirds of the time.
    batch_size : int, optional
        Images per forward pass; what suits the device if left out.

    Raises
    ------
    ConfigError
        If there is no such device.
    """

    def __init__(self, device: str = "auto", precision: str = "auto", batch_size: int | None = None) -> None:
        has_gpu = torch.cuda.is_available()
        if device == "cuda" and not has_gpu:
            raise ConfigError("compute.device is cuda, but torch finds no GPU here")
        self.device = torch.device("cuda" if has_gpu and device != "cpu" else "cpu")
        on_gpu = self.device.type == "cuda"
        self.precision = choose_precision(self.device.type) if precision == "auto" else precision
        self.batch_size = batch_size or (GPU_BATCH if on_gpu else CPU_BATCH)
        if on_gpu:
            torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
            torch.backends.cuda.matmul.allow_tf32 = False
        else:
            keep_freed_memory()
        # Threads with a batch each, not many threads on one batch: these wait for each other after every layer, and
        # where other processes want the cores too, that halves the speed.
        self._num_threads = 1 if on_gpu else torch.get_num_threads()
        self._threads = ThreadPoolExecutor(self._num_threads, initializer=torch.set_num_threads, initargs=(1,))

    def prepare(self, module: Module) -> Module:
        """Move a model to the device, in the layout that its convolutions like best."""
        return module.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def autocast(self) -> torch.autocast:
        """Context in which convolutions and matrix products have the engine's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def run(
        self, function: Callable[..., tuple[Tensor, ...]], images: NDArray[np.uint8], *columns: NDArray[np.int64]
    ) -> tuple[NDArray[np.generic], ...]:
        """Apply a function to images, a few at a time.

        Every call of the function is for ``batch_size`` images, the last made up with black ones: with another number
        torch takes other ways through a layer, and the last bits differ. So, on the same hardware, what comes out for
        an image does not depend on those that come with it.

        Parameters
        ----------
        function : callable
            Takes float32 (n, 3, H, W) in [0, 1] and n values of each column, on the device; gives tensors of n rows.
        images : uint8 (N, H, W, 3)
        *columns : int64 (N,)
            More that the function needs of each image.

        Returns
        -------
        tuple of ndarray
            The function's results for all N; no images give arrays without rows.
        """
        starts = range(0, max(1, len(images)), self.batch_size)  # of no images, results without rows

        def run_batch(start: int) -> tuple[Tensor, ...]:
            rows = slice(start, start + self.batch_size)
            count = len(images[rows])
            with torch.inference_mode():
                inputs = self._to_device(images[rows]).permute(0, 3, 1, 2)  # a view: the layout is channels_last
                results = function(inputs.float().mul_(1 / 255), *(self._to_device(column[rows]) for column in columns))
            return tuple(result[:count] for result in results)

        spread = self._num_threads > 1 and len(starts) > 1
        results = list(self._threads.map(run_batch, starts) if spread else map(run_batch, starts))
        return tuple(torch.cat(parts).cpu().numpy() for parts in zip(*results, strict=True))

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        """Copy up to ``batch_size`` rows, made up with zeros, to the device."""
        if len(array) < self.batch_size:
            missing = np.zeros((self.batch_size - len(array), *array.shape[1:]), array.dtype)
            array = np.concatenate([array, missing])
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


def choose_precision(device: str) -> Literal["fp32", "bf16"]:
    """Precision ``auto`` on a device: bf16 where this machine's hardware has it.

    Parameters
    ----------
    device : {"cpu", "cuda"}
        Of a GPU elsewhere (there is none here) it is taken for granted: all have it since NVIDIA's Ampere (2020).
    """
    if device == "cuda":
        has_bf16 = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # older versions of torch do not tell
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        has_bf16 = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return "bf16" if has_bf16 else "fp32"
