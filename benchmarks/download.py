"""Download small JPEGs from a loopback server into Parquet: galaxray side by side with img2dataset.

    python benchmarks/download.py                      # 10,000 images, three rounds, prints a table
    python benchmarks/download.py --stream             # also the whole Ray stream, annotate_catalog.py --stages fetch
    python benchmarks/download.py --images 500 --rounds 1

Every contestant runs as a process of its own against the same server. "sustained" is from its first request to its
last file; "with start-up" is the life of the process. All check nothing but what they check by default, keep the
bytes and their SHA-256, and encode nothing anew. img2dataset gets an environment of its own, made on the first run in
the cache folder, and the setting that suits it best here: two processes, 32 threads each, shards of 1,000. Our fetchers
are two processes as well, with 32 requests in flight each and units of 250.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from galaxray.memory import worker_environment

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "galaxray" / "benchmarks"

SIZE_PIXELS = 256
PICTURES = 100
UNIT_ROWS = 250
PROCESSES = 2
IN_FLIGHT = 64


@dataclass(frozen=True)
class Result:
    """What one contestant did in one round."""

    images: int
    sustained_s: float
    total_s: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stream", action="store_true", help="also run annotate_catalog.py --stages fetch")
    parser.add_argument("--without-img2dataset", action="store_true", help="leave the peer out")
    parser.add_argument("--ours", nargs=2, metavar=("URL", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ours:
        print(json.dumps(download(args.ours[0], Path(args.ours[1]), args.images)))
        return
    contestants: dict[str, Callable[[str, Path, int], Result]] = {"galaxray Fetcher": run_ours}
    if args.stream:
        contestants["galaxray stream"] = run_stream
    if not args.without_img2dataset:
        make_environment()
        contestants["img2dataset"] = run_img2dataset
    with tempfile.TemporaryDirectory(prefix="galaxray-download-") as scratch:
        mean_bytes = make_pictures(Path(scratch) / "pictures")
        print(f"{args.images:,} JPEGs of {mean_bytes / 1000:.1f} KB, {os.cpu_count()} cores shared with the server,")
        print(f"load {os.getloadavg()[0]:.1f} at the start; median of {args.rounds} (all in brackets)")
        results: dict[str, list[Result]] = {name: [] for name in contestants}
        with serving(Path(scratch) / "pictures") as url:
            for _ in range(args.rounds):
                for name, run in contestants.items():  # in turn, so that a busy minute meets everybody
                    folder = Path(scratch) / "out"
                    results[name].append(run(url, folder, args.images))
                    shutil.rmtree(folder)
                    os.sync()  # what this one left for the disk to do is not charged to the next
    report(results)


def report(results: dict[str, list[Result]]) -> None:
    for title, seconds in (
        ("sustained", lambda result: result.sustained_s),
        ("with start-up", lambda result: result.total_s),
        ("per second of CPU time, start-up included (the figure for a busy machine)", lambda result: result.cpu_s),
    ):
        print(f"\n{title}, images/s")
        medians = {}
        for name, rounds in results.items():
            rates = [result.images / seconds(result) for result in rounds]
            medians[name] = statistics.median(rates)
            print(f"  {name:20s} {medians[name]:8,.0f}   [{', '.join(f'{rate:,.0f}' for rate in rates)}]")
        if peer := medians.get("img2dataset"):
            for name, rate in medians.items():
                if name != "img2dataset":
                    print(f"  {name} : img2dataset = {rate / peer:.2f}")


def make_pictures(folder: Path) -> float:
    """Write JPEGs of about 37 KB; return their mean size in bytes."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    sizes = []
    for index in range(PICTURES):
        coarse = rng.integers(0, 255, (SIZE_PIXELS // 2, SIZE_PIXELS // 2, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((SIZE_PIXELS, SIZE_PIXELS))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=81)
        (folder / f"{index:03d}.jpg").write_bytes(buffer.getvalue())
        sizes.append(len(buffer.getvalue()))
    return statistics.mean(sizes)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "static_server.py"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def download(url: str, folder: Path, images: int) -> dict[str, Any]:
    """The contestant: processes that share out the units of a catalogue, as the fetchers of a cluster do."""
    folder.mkdir()
    starts = range(0, images, UNIT_ROWS)
    shares = [(url, folder, images, list(starts[number::PROCESSES])) for number in range(PROCESSES)]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as processes:
        done = list(processes.map(download_units, shares))
    began, ended = min(share[1] for share in done), max(share[2] for share in done)
    return {"images": sum(share[0] for share in done), "sustained_s": ended - began}


def download_units(share: tuple[str, Path, int, list[int]]) -> tuple[int, float, float]:
    """Fetch units, each written as a Parquet file when it is whole; images, begin and end."""
    import numpy as np
    import pandas  # noqa: F401  # pyarrow imports it with the first array: that belongs to the start-up
    import pyarrow as pa
    import pyarrow.parquet as pq

    from galaxray.batches import Batch, text_array
    from galaxray.config import CutoutConfig
    from galaxray.cutouts import Fetcher

    url, folder, images, starts = share
    config = CutoutConfig(
        base_url=url, size_pixels=SIZE_PIXELS, requests_per_s=None, max_in_flight=IN_FLIGHT // PROCESSES
    )

    def to_arrow(array: np.ndarray) -> pa.Array:
        is_bytes = array.dtype == object and isinstance(array[0], bytes)
        return pa.array(array, pa.large_binary() if is_bytes else None)  # large: copied in one go

    def one_unit(start: int) -> int:
        index = np.arange(start, min(start + UNIT_ROWS, images))
        batch: Batch = {
            "row_index": index,
            "object_id": text_array([f"g{row}" for row in index]),
            "ra_deg": index * 360.0 / images,
            "dec_deg": np.zeros(len(index)),
            "status": text_array(["ok"] * len(index)),
            "error": text_array([None] * len(index)),
        }
        table = pa.table({name: to_arrow(array) for name, array in fetcher.fetch(batch).items()})
        # Compressing JPEGs again, or looking for equal ones, is lost time.
        pq.write_table(table, folder / f"{start:09d}.parquet", compression="none", use_dictionary=["status"])
        return table["status"].to_pylist().count("ok")

    with Fetcher(config) as fetcher:
        began = time.time()
        ok = sum(map(one_unit, starts))
        return ok, began, time.time()


def run_measured(command: list[str], **options: Any) -> tuple[str, float, float]:
    """Run a contestant; its output, its life and its CPU time, children included, in seconds."""

    def cpu_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of children that have ended: not of the server
        return used.ru_utime + used.ru_stime

    cpu_before, began = cpu_s(), time.perf_counter()
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, **options).stdout
    return output, time.perf_counter() - began, cpu_s() - cpu_before


def run_ours(url: str, folder: Path, images: int) -> Result:
    command = [sys.executable, __file__, "--images", str(images), "--ours", url, str(folder)]
    output, total_s, cpu_s = run_measured(command, env=os.environ | worker_environment())  # as the program's workers
    found = json.loads(output)
    return Result(_all(images, found["images"]), found["sustained_s"], total_s, cpu_s)


def run_stream(url: str, folder: Path, images: int) -> Result:
    """The whole program: its summary tells the streaming time."""
    folder.mkdir()
    rows = "\n".join(f"g{index},{index * 360 / images:.6f},0" for index in range(images))
    (folder / "catalog.csv").write_text(f"object_id,ra,dec\n{rows}\n")
    command = [sys.executable, str(ROOT / "pipelines" / "annotate_catalog.py"), "--stages", "fetch"]
    command += ["--catalog", str(folder / "catalog.csv"), "--output", str(folder / "run")]
    command += ["--cutouts.base-url", url, "--cutouts.size-pixels", str(SIZE_PIXELS)]
    command += ["--cutouts.requests-per-s", "none", "--cutouts.max-in-flight", str(IN_FLIGHT)]
    _, total_s, cpu_s = run_measured(command, stderr=subprocess.DEVNULL)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    return Result(_all(images, summary["by_status"].get("ok", 0)), summary["stream_s"], total_s, cpu_s)


def run_img2dataset(url: str, folder: Path, images: int) -> Result:
    folder.mkdir()
    addresses = "\n".join(f"{url}/viewer/jpeg-cutout?ra={index}&size={SIZE_PIXELS}" for index in range(images))
    (folder / "urls.txt").write_text(addresses + "\n")
    options = {
        "url_list": folder / "urls.txt",
        "output_folder": folder / "images",
        "output_format": "parquet",
        "disable_all_reencoding": True,
        "extract_exif": False,
        "processes_count": 2,
        "thread_count": 32,
        "number_sample_per_shard": 1000,
    }
    command = [str(_environment() / "bin" / "img2dataset"), *(f"--{name}={value}" for name, value in options.items())]
    # Or it would ask a registry for a newer version of a dependency, and that would count as its start-up.
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    _, total_s, cpu_s = run_measured(command, stderr=subprocess.DEVNULL, env=environment)
    shards = [json.loads(path.read_text()) for path in (folder / "images").glob("*_stats.json")]
    sustained_s = max(shard["end_time"] for shard in shards) - min(shard["start_time"] for shard in shards)
    return Result(_all(images, sum(shard["successes"] for shard in shards)), sustained_s, total_s, cpu_s)


def _all(wanted: int, got: int) -> int:
    if wanted != got:
        raise SystemExit(f"only {got:,} of {wanted:,} images came: no figure")
    return got


def _environment() -> Path:
    return CACHE / "img2dataset"


def make_environment() -> None:
    """Install the peer into an environment of its own, once."""
    folder = _environment()
    if (folder / "bin" / "img2dataset").exists():
        return
    print(f"installing img2dataset into {folder}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "img2dataset"], check=True)


if __name__ == "__main__":
    main()
