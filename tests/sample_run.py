"""A run folder with plausible content, made without a pipeline: synthetic galaxies and made-up predictions."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from galaxray import posterior, synthetic
from galaxray.batches import Batch, text_array
from galaxray.schema import Status, to_table
from galaxray.trees import DecisionTree, load_tree

FAILURES = {
    7: (Status.NOT_COVERED, "404 from the service: no coverage at this position"),
    11: (Status.THROTTLED, "429 Too Many Requests after 5 attempts"),
    13: (Status.CORRUPT, "JPEG ends after 3,112 bytes"),
    17: (Status.BLANK, "every pixel is 0"),
    23: (Status.UNREACHABLE, "no answer within 30 s, 5 attempts"),
    29: (Status.MODEL_ERROR, "RuntimeError: out of memory"),
}


def encode(image: np.ndarray, file_format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, file_format, quality=85)
    return file.getvalue()


def tree_columns(galaxies: list[Any], tree: DecisionTree, rng: np.random.Generator) -> Batch:
    """What a model with five dropout passes might say of these galaxies."""
    truth = np.stack([synthetic.vote_probabilities(galaxy) for galaxy in galaxies])
    passes = truth[:, :, None] * np.exp(0.25 * rng.normal(size=(*truth.shape, 5)))
    return posterior.columns(1 + 40 * passes, tree)


def base_batch(galaxies: list[Any], failures: bool = True) -> Batch:
    n = len(galaxies)
    status, error = text_array([Status.OK.value] * n), text_array([None] * n)
    for row in range(n if failures else 0):
        for every, (why, text) in FAILURES.items():
            if row % every == every - 1:
                status[row], error[row] = why.value, text
    ok = status == "ok"
    return {
        "row_index": np.arange(n),
        "object_id": text_array([galaxy.object_id for galaxy in galaxies]),
        "ra_deg": np.array([galaxy.ra_deg for galaxy in galaxies]),
        "dec_deg": np.array([galaxy.dec_deg for galaxy in galaxies]),
        "status": status,
        "error": error,
        "attempts": np.ones(n, np.int16),
        "image_url": text_array([f"http://127.0.0.1:9/cutout.jpg?ra={g.ra_deg:.4f}" for g in galaxies]),
        "image_sha256": text_array(["0" * 64] * n),
        "image_width": np.where(ok, 256, 0).astype(np.int32),
        "image_height": np.where(ok, 256, 0).astype(np.int32),
        "pixel_scale_arcsec": np.array([galaxy.size_arcsec / 256 for galaxy in galaxies]),
    }


def model_columns(galaxies: list[Any], rng: np.random.Generator) -> Batch:
    """Embedding, reconstruction error and masks."""
    traits = np.array([[g.axis_ratio, g.arm_strength, g.bar_strength, g.bulge_to_total] for g in galaxies])
    masks = [synthetic.true_masks(galaxy, size=128) for galaxy in galaxies]
    spiral, bar = (
        text_array([encode(255 * mask.astype(np.uint8), "PNG") if mask.any() else None for mask in side])
        for side in zip(*masks, strict=True)
    )
    marked = np.array([mask.mean() for _, mask in masks], np.float32)
    lengths = np.array([2 * g.bar_semi_length_arcsec or np.nan for g in galaxies], np.float32)
    return {
        "embedding": (traits @ rng.normal(size=(4, 16)) + 0.2 * rng.normal(size=(len(galaxies), 16))).astype(
            np.float32
        ),
        "reconstruction_error": np.exp(rng.normal(-6, 0.5, len(galaxies))).astype(np.float32),
        "spiral_mask": spiral,
        "bar_mask": bar,
        "spiral_fraction": np.array([mask.mean() for mask, _ in masks], np.float32),
        "bar_fraction": marked,
        "bar_length_arcsec": lengths,
        "bar_angle_deg": np.where(np.isnan(lengths), np.nan, rng.uniform(0, 180, len(galaxies))).astype(np.float32),
    }


def write_tables(folder: Path, batch: Batch, pictures: list[bytes | None], rows_per_unit: int) -> None:
    (folder / "annotations").mkdir(parents=True)
    (folder / "thumbnails").mkdir()
    table = to_table(batch)
    for unit, start in enumerate(range(0, table.num_rows, rows_per_unit)):
        pq.write_table(table.slice(start, rows_per_unit), folder / f"annotations/unit-{unit:08d}.parquet")
        kept = [(row, jpeg) for row, jpeg in enumerate(pictures) if start <= row < start + rows_per_unit and jpeg]
        if kept:
            columns = {"row_index": pa.array([row for row, _ in kept]), "jpeg": pa.array([jpeg for _, jpeg in kept])}
            pq.write_table(pa.table(columns), folder / f"thumbnails/unit-{unit:08d}.parquet")


def write_records(folder: Path, batch: Batch) -> None:
    """run.json and summary.json as the program writes them."""
    names, counts = np.unique(batch["status"].astype(str), return_counts=True)
    errors, error_counts = np.unique(batch["error"][batch["status"] != "ok"].astype(str), return_counts=True)
    stages = {"fetch": 9.1, "decode": 2.2, "classify": 21.4, "embed": 6.0, "segment": 11.9, "write": 0.7}
    n = len(batch["status"])
    summary = {
        "run_id": "3f0c9a",
        "rows": n,
        "by_status": dict(zip(names.tolist(), counts.tolist(), strict=True)),
        "errors": dict(zip(errors.tolist(), error_counts.tolist(), strict=True)),
        "wall_s": 61.2,
        "startup_s": 14.9,
        "rows_per_s": n / 46.3,
        "stages": {
            name: {"busy_s": busy, "rows": n, "rows_per_s": n / busy, "workers": 1, "idle_fraction": 1 - busy / 46.3}
            for name, busy in stages.items()
        },
        "cpu_idle_fraction": 0.08,
        "gpu_idle_fraction": None,
        "galaxray_version": "0.1.0",
        "started": "2025-01-01T12:00:00+00:00",
        "finished": "2025-01-01T12:01:01+00:00",
    }
    record = {
        "config": {"catalog": "https://me:secret@example.org/nearby.fits", "cutouts": {"source": "legacysurvey"}},
        "config_digest": "0123abcd",
        "catalog": {"uri": "https://me:secret@example.org/nearby.fits", "fingerprint": "fits-123", "rows": n},
        "models": {
            "classifier": {
                "weights": ["builtin:classifier"],
                "digest": "sha256:9d3f" + "0" * 60,
                "task": "tree",
                "tree": "gz_decals_5",
            },
            "embedder": {"weights": "builtin:vae", "digest": "sha256:77aa" + "0" * 60, "dim": 16},
            "segmenter": {"weights": "builtin:segmenter", "digest": "sha256:51b2" + "0" * 60, "zoom": 1.0},
        },
        "versions": {"python": "3.11", "torch": "2.8"},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "run.json").write_text(json.dumps(record))


def write_sample_run(folder: Path, num_rows: int, num_pictures: int, rows_per_unit: int = 64) -> Batch:
    """Write a whole run folder; its batch is given back so that a test can write a part of it again."""
    rng = np.random.default_rng(0)
    galaxies = synthetic.catalog(num_rows)
    batch = base_batch(galaxies) | tree_columns(galaxies, load_tree("gz_decals_5"), rng) | model_columns(galaxies, rng)
    every = max(1, num_rows // num_pictures)
    seen = (batch["status"] == "ok") | (batch["status"] == "model_error")
    pictures = [
        encode(synthetic.image(g.ra_deg, g.dec_deg, 128, g.size_arcsec / 128), "JPEG")
        if row % every == 0 and seen[row]
        else None
        for row, g in enumerate(galaxies)
    ]
    write_tables(folder, batch, pictures, rows_per_unit)
    write_records(folder, batch)
    return batch
