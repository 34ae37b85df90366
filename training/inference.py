"""Predict for single images, as a CSV on standard output. ``--help`` says how.

For a catalogue there is pipelines/annotate_catalog.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # only the library is installed, not the programs

import numpy as np
from pyarrow import csv

from galaxray.batches import Batch, text_array
from galaxray.config import ClassifierConfig, CutoutConfig
from galaxray.errors import ConfigError, GalaxrayError
from galaxray.export import flat_table
from galaxray.models import load_classifier
from galaxray.schema import Status, to_table
from galaxray.stages import Classify, Decode, Fetch

LEFT_OUT = ("row_index", "ra_deg", "dec_deg", "attempts", "image_url", "pixel_scale_arcsec")
EPILOG = """\
for example:
  inference.py --model gz1_model/model.safetensors 587727178986356823 587727178986356823.jpg > one.csv
  inference.py --model a.safetensors --model b.safetensors NGC1300 ngc1300.png       an ensemble
  inference.py --model gz1_model/model.safetensors --folder images > all.csv         identifiers are the files' names
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict; the exit status."""
    parser = argparse.ArgumentParser(
        description="Predict for single images: one row of CSV each, on standard output.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="*", metavar="ID IMAGE", help="identifier and file of each galaxy, in turn")
    parser.add_argument("--model", action="append", required=True, help="model file or builtin:classifier")
    parser.add_argument("--folder", type=Path, help="all images of a folder instead")
    parser.add_argument("--orientations", type=int, default=1, choices=(1, 2, 4, 8), help="look from so many sides")
    given = parser.parse_args(arguments)
    try:
        names, files = _images(given.images, given.folder)
        model = load_classifier(given.model, ClassifierConfig(orientations=given.orientations))
        batch = Fetch(CutoutConfig(source="files"))(_batch(names, files))
        table = to_table(Classify(model)(Decode([model.view])(batch)))
        table = table.drop_columns([name for name in LEFT_OUT if name in table.column_names])
        csv.write_csv(flat_table(table), sys.stdout.buffer)
    except GalaxrayError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def _images(words: Sequence[str], folder: Path | None) -> tuple[list[str], list[Path]]:
    if folder is not None:
        if words:
            raise ConfigError("give identifiers and images, or --folder")
        if not folder.is_dir():
            raise ConfigError(f"--folder {folder}: there is no such folder")
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        if not files:
            raise ConfigError(f"--folder {folder} holds no files")
        return [path.stem for path in files], files
    if not words or len(words) % 2:
        raise ConfigError(f"{len(words)} words: an identifier and an image for each galaxy, in turn; or --folder")
    return list(words[::2]), [Path(word) for word in words[1::2]]


def _batch(names: Sequence[str], files: Sequence[Path]) -> Batch:
    """Rows as a catalogue with paths gives them."""
    count = len(names)
    return {
        "row_index": np.arange(count),
        "object_id": text_array(list(names)),
        "ra_deg": np.full(count, np.nan),
        "dec_deg": np.full(count, np.nan),
        "status": text_array([Status.OK.value] * count),
        "error": text_array([None] * count),
        "path": text_array([str(path.absolute()) for path in files]),
        "attempts": np.zeros(count, np.int16),
    }


if __name__ == "__main__":
    sys.exit(main())
