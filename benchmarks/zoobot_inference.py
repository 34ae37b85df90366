"""JPEG files to vote fractions: galaxray side by side with zoobot on the same weights, pictures and view.

    python benchmarks/zoobot_inference.py                       # 2,000 pictures of 424 px, three rounds, a table
    python benchmarks/zoobot_inference.py --stream              # also the whole Ray stream, annotate_catalog.py
    python benchmarks/zoobot_inference.py --images 128 --rounds 1 --archs efficientnet_b0

Contestants take turns, each in a process of its own, and are timed from their first file to their last prediction;
importing and loading the model is left out for all. "zoobot" is ``predict_on_catalog`` with two loader workers and
batches of 64; "zoobot, memory kept" the same with the allocator's settings of galaxray. "loop" is decode, view and
predict of galaxray without Ray, "forward" its model alone on pictures that are there already. The difference is that
of vote fractions to those of zoobot: the weights are random, but tell pictures apart (`zoobot_models`), which makes
them far more sensitive than trained ones.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.zoobot_models import make_checkpoint, make_jpegs, predict_with_zoobot
from galaxray import models, posterior
from galaxray.config import ClassifierConfig
from galaxray.images import View, decode
from galaxray.memory import worker_environment
from galaxray.trees import load_tree

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "galaxray" / "benchmarks"
ARCHS = ("convnext_nano", "efficientnet_b0")
PRECISIONS = ("fp32", "bf16")
CORES = os.cpu_count() or 1
BATCH = 64
WARM_UP = 64


@dataclass(frozen=True)
class Job:
    """What a contestant is to do."""

    arch: str
    precision: str
    checkpoint: Path
    pictures: list[Path]
    output: Path
    """Where the concentrations go (.npy)."""


def zoobot(job: Job) -> float:
    """Zoobot's own program for it."""
    predict_with_zoobot("tree", job.arch, job.checkpoint, job.pictures[:WARM_UP], num_workers=0)
    began = time.perf_counter()
    concentrations = predict_with_zoobot(
        "tree", job.arch, job.checkpoint, job.pictures, batch_size=BATCH, num_workers=2
    )
    seconds = time.perf_counter() - began
    np.save(job.output, concentrations)
    return seconds


def loop(job: Job) -> float:
    """Decode, view and predict, batch by batch."""
    model = _load(job)
    with ThreadPoolExecutor(CORES) as threads:

        def predict(paths: list[Path]) -> np.ndarray:
            images = np.stack(list(threads.map(lambda path: model.view.apply(decode(path.read_bytes())), paths)))
            return model.predict(images, np.arange(len(images)))

        predict(job.pictures[:WARM_UP])
        began = time.perf_counter()
        concentrations = [predict(paths) for paths in _batches(job.pictures)]
        seconds = time.perf_counter() - began
    np.save(job.output, np.concatenate(concentrations)[:, :, 0])
    return seconds


def forward(job: Job) -> float:
    """The model alone."""
    model = _load(job)
    images = np.stack([model.view.apply(decode(path.read_bytes())) for path in job.pictures])
    rows = np.arange(len(images))
    model.predict(images[:WARM_UP], rows[:WARM_UP])
    began = time.perf_counter()
    concentrations = [model.predict(images[i : i + BATCH], rows[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    seconds = time.perf_counter() - began
    np.save(job.output, np.concatenate(concentrations)[:, :, 0])
    return seconds


CONTESTANTS: dict[str, Callable[[Job], float]] = {
    "zoobot": zoobot,
    "zoobot, memory kept": zoobot,
    "loop": loop,
    "forward": forward,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--archs", nargs="+", default=list(ARCHS))
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS))
    parser.add_argument("--stream", action="store_true", help="also run annotate_catalog.py")
    parser.add_argument("--view", action="store_true", help="only time decoding and view, on one core")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    pictures = _pictures(args.images)
    if args.view:
        print("\n".join(_time_views(pictures)))
        return
    if args.contestant:
        job = _job(args.archs[0], args.precisions[0], pictures, args.output)
        print(json.dumps({"seconds": CONTESTANTS[args.contestant](job)}))
        return
    print(_machine())
    with tempfile.TemporaryDirectory(prefix="galaxray-benchmark-") as folder:
        for arch in args.archs:
            _compare(arch, args.precisions, pictures, args.rounds, Path(folder), stream=args.stream)


def _compare(
    arch: str, precisions: list[str], pictures: list[Path], rounds: int, folder: Path, *, stream: bool
) -> None:
    """Let the contestants take turns on one architecture, and print what they did."""
    _job(arch, "fp32", pictures, folder / "none.npy")  # the checkpoint is made now
    runs = [("zoobot", "fp32"), ("zoobot, memory kept", "fp32")]
    runs += [(name, precision) for precision in precisions for name in ("loop", "forward")]
    if stream:
        runs += [("stream", precision) for precision in precisions]
    rates: dict[tuple[str, str], list[float]] = {run: [] for run in runs}
    notes: dict[tuple[str, str], str] = {}
    for number in range(rounds):
        for name, precision in runs:
            output = folder / f"{arch}-{name}-{precision}.npy"
            if name == "stream":
                rate, note = _stream(_job(arch, precision, pictures, output), folder / f"{arch}-{precision}-{number}")
                notes[name, precision] = note
            else:
                rate = len(pictures) / _run(name, arch, precision, len(pictures), output)
            rates[name, precision].append(rate)
    tree = load_tree("gz_decals_5")

    def fractions(name: str, precision: str) -> np.ndarray:
        return posterior.fractions(np.load(folder / f"{arch}-{name}-{precision}.npy")[:, :, None], tree)

    base, theirs = statistics.median(rates["zoobot", "fp32"]), fractions("zoobot", "fp32")
    print(f"\n{arch}\n{'':22} {'':5} {'images/s':>9} {'x zoobot':>9} {'difference: max':>16} {'mean':>8}   rounds")
    for name, precision in runs:
        rate = statistics.median(rates[name, precision])
        difference = np.abs(fractions(name, precision) - theirs)
        each = " ".join(f"{value:.1f}" for value in rates[name, precision])
        print(
            f"{name:22} {precision:5} {rate:9.1f} {rate / base:9.2f} {difference.max():16.1e} {difference.mean():8.1e}"
            f"   {each}{notes.get((name, precision), '')}"
        )


def _run(name: str, arch: str, precision: str, images: int, output: Path) -> float:
    """Seconds that a contestant takes, in a process of its own."""
    kept = worker_environment() if name == "zoobot, memory kept" else {}
    command = [sys.executable, "-W", "ignore", __file__, "--contestant", name, "--archs", arch]
    command += ["--precisions", precision, "--images", str(images), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | kept, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    seconds: float = json.loads(done.stdout.splitlines()[-1])["seconds"]
    return seconds


def _stream(job: Job, output: Path) -> tuple[float, str]:
    """Rate of ``annotate_catalog.py`` once it runs, and a note on its start."""
    catalog = output.with_suffix(".csv")
    with catalog.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id_str", "path"])
        writer.writerows([path.stem, str(path)] for path in job.pictures)
    command = [sys.executable, str(ROOT / "pipelines" / "annotate_catalog.py")]
    command += ["--catalog", str(catalog), "--output", str(output), "--stages", "fetch,classify"]
    command += ["--cutouts.source", "files", "--columns.path_column", "path"]
    command += ["--classifier.weights", str(job.checkpoint), "--compute.precision", job.precision]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"annotate_catalog.py failed:\n{done.stderr[-3000:]}")
    summary = json.loads((output / "summary.json").read_text())
    np.save(job.output, _concentrations_like(output / "annotations", job))
    return summary["rows_per_s"], f"   (start-up {summary['startup_s']:.1f} s)"


def _concentrations_like(annotations: Path, job: Job) -> np.ndarray:
    """Vote fractions of a run, in the order of the catalogue; as good as concentrations for `posterior.fractions`."""
    import pandas as pd

    table = pd.read_parquet(annotations).sort_values("row_index")
    fractions = table[[f"{label}_fraction" for label in load_tree("gz_decals_5").labels]].to_numpy()
    assert len(fractions) == len(job.pictures)
    return fractions


def _time_views(pictures: list[Path]) -> Iterator[str]:
    """Milliseconds per picture, one thread, of galaxray and of zoobot."""
    import torch
    from galaxy_datasets.transforms import get_galaxy_transform, minimal_view_config
    from PIL import Image

    from galaxray.memory import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    files = [path.read_bytes() for path in pictures]
    transform, view = get_galaxy_transform(minimal_view_config()), View(size=224, zoom=1.2)
    ways: dict[str, Callable[[Path, bytes], object]] = {
        "decode": lambda path, data: decode(data),
        "decode and view": lambda path, data: view.apply(decode(data)),
        "zoobot's": lambda path, data: transform(Image.open(path)),
    }
    for name, way in ways.items():
        way(pictures[0], files[0])
        began = time.process_time()
        for path, data in zip(pictures, files, strict=True):
            way(path, data)
        yield f"{name:16} {(time.process_time() - began) / len(files) * 1e3:6.2f} ms"


def _load(job: Job) -> models.Classifier:
    models.set_num_threads(CORES)
    return models.load_classifier([str(job.checkpoint)], ClassifierConfig(), "cpu", job.precision)


def _pictures(count: int) -> list[Path]:
    folder = CACHE / f"pictures-{count}"
    paths = sorted(folder.glob("*.jpg"))
    return paths if len(paths) == count else make_jpegs(folder, count)


def _job(arch: str, precision: str, pictures: list[Path], output: Path) -> Job:
    checkpoint = CACHE / f"{arch}.ckpt"
    if not checkpoint.is_file():
        make_checkpoint("tree", arch, checkpoint, pictures[:32])
    return Job(arch, precision, checkpoint, pictures, output)


def _batches(paths: list[Path]) -> Iterator[list[Path]]:
    return (paths[i : i + BATCH] for i in range(0, len(paths), BATCH))


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    packages = " ".join(f"{package} {version(package)}" for package in ("zoobot", "torch", "timm", "pillow"))
    return f"{name}, {CORES} cores; Python {platform.python_version()}, {packages}"


if __name__ == "__main__":
    main()
