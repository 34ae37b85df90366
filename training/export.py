"""Write a model for other programs: ONNX, or torch's exported program. ``--help`` says how."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # only the library is installed, not the programs

import io
from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field
from torch import nn

from galaxray import synthetic
from galaxray.errors import ConfigError
from galaxray.images import View, decode
from galaxray.models.checkpoint import load_checkpoint
from galaxray.models.exchange import check_format, export_model
from galaxray.models.load import ZOOBOT_SIZE, ZOOBOT_ZOOM, view_of
from galaxray.models.weights import load_model, resolve
from galaxray.settings import ProgramSettings, clean_help
from galaxray.training.program import run_training
from galaxray.training.shards import open_shards

NUM_IMAGES = 16
SUFFIXES = (".jpg", ".jpeg", ".png", ".fits")


class ExportProgram(ProgramSettings):
    """Write a model as ONNX or as torch's exported program, checked against the model at once.

    The file takes images of any batch, float32 (N, 3, size, size) in [0, 1], and holds the model's card. One that gives
    other numbers than the model, by more than 0.0001, is not kept. Of a Zoobot checkpoint, dropout that it would use in
    every prediction is left out.

    For example:
      export.py --model out/model --output model.onnx
      export.py --model builtin:classifier --output classifier.pt2 --images my/galaxies

    Exit status: 0 done; 2 bad input or settings; 1 any other failure, or other numbers.
    """

    config: str | None = Field(None, description="Recipe (TOML) with these same keys; flags win over it.")
    model: str
    """Model file or its stem, ``builtin:NAME``, or a Zoobot ``.ckpt``."""
    output: Path
    """File to write; ``.onnx`` or ``.pt2`` says the format."""
    images: Path | None = None
    """Folder of image files, or a data set, to compare on; galaxies of the synthetic sky if left out."""
    size: Annotated[int, Field(gt=0)] | None = None
    """Width and height of the images that a Zoobot checkpoint shall take; 224 if left out."""

    model_config = ProgramSettings.model_config

    def run(self) -> None:
        """Export, compare, print the largest differences."""
        check_format(self.output)
        module, card, view = self._load()
        noise = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, view.size, view.size, 3), np.uint8)
        name = f"images of {self.images}" if self.images else "galaxies of the synthetic sky"
        pictures = np.stack([view.apply(decode(data)) for data in self._pictures()])
        channels = card["architecture"].get("in_chans", 3)
        inputs = {"images of random pixels": _as_input(noise, channels), name: _as_input(pictures, channels)}
        differences = export_model(module, self.output, inputs, card)
        for name, difference in differences.items():
            print(f"largest difference on {len(inputs[name])} {name}: {difference:.2g}")
        print(f"wrote {self.output} ({self.output.stat().st_size / 1e6:.1f} MB)")

    def _load(self) -> tuple[nn.Module, dict[str, Any], View]:
        path = resolve(self.model)
        if path.suffix == ".safetensors":
            module, card = load_model(path)
            return module, card, view_of(card)
        module = (checkpoint := load_checkpoint(path)).model
        view = View(self.size or ZOOBOT_SIZE, ZOOBOT_ZOOM, greyscale=module.architecture["in_chans"] == 1)
        card = {"kind": "classifier", "architecture": module.architecture, "view": asdict(view), "source": path.name}
        if checkpoint.tree:
            card["tree"] = checkpoint.tree.to_dict()
        return module, card, view

    def _pictures(self) -> list[bytes]:
        """Files of a few images."""
        if self.images is None:
            galaxies = synthetic.catalog(NUM_IMAGES, seed=1)
            return [_png(synthetic.image(g.ra_deg, g.dec_deg, 128, g.size_arcsec / 128)) for g in galaxies]
        if (self.images / "dataset.json").is_file():
            galaxies_of = open_shards(self.images).all
            return [galaxies_of.image(i) for i in range(min(NUM_IMAGES, len(galaxies_of)))]
        paths = (path for path in sorted(self.images.glob("*")) if path.suffix.lower() in SUFFIXES)
        found = [path.read_bytes() for path in islice(paths, NUM_IMAGES)]
        if not found:
            raise ConfigError(f"{self.images} holds no images ({', '.join(SUFFIXES)}) and no data set")
        return found


clean_help(ExportProgram)


def _png(picture: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def _as_input(images: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.float32]:
    """As a model takes them: float32 (N, channels, size, size) in [0, 1]."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)[:, :channels], np.float32) / np.float32(255)


if __name__ == "__main__":
    sys.exit(run_training(ExportProgram, ExportProgram.run, program=Path(__file__).name))
