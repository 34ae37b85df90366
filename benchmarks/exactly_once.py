"""What exactly-once costs: the program's stream side by side with the same stages that write plain Parquet.

    python benchmarks/exactly_once.py                  # all models, three rounds
    python benchmarks/exactly_once.py --rows 2000 --rounds 1

Both contestants read the same pictures from disk, through the same stages in the same pools of actors. Ours hands out
the units of a run and commits each as a file (pipelines/stream.py). The other is what one would write without that:
``read_parquet``, ``map_batches``, ``write_parquet``; killed, it has lost track of what is done. Each has a process and
a Ray of its own. The time is from the first batch that reaches the models to the last file. Without models the plain
stream would seem ten times slower than it is: its tasks that write start processes that import torch in that time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from galaxray.batches import Batch, text_array
from galaxray.catalog import open_catalog
from galaxray.config import RunConfig
from galaxray.images import View
from galaxray.ledger import Ledger
from galaxray.modelset import ModelSet, describe_models, model_stages, settle_precision
from galaxray.plan import plan_run
from galaxray.runs import Run
from galaxray.schema import to_table
from galaxray.stages import Decode, Fetch, Stage
from galaxray.synthetic import catalog, image
from pipelines.cluster import connect
from pipelines.resources import TASK_CPUS, Pool, allot

if TYPE_CHECKING:
    import ray.data

PICTURES = 200
SIZE_PIXELS = 128
ROWS_PER_UNIT = 256
CORES = os.cpu_count() or 1
"""The pools are cut for these. Ray is told of two more: to list files and to write them, it wants a whole CPU."""
TEXT = ("object_id", "status", "error", "image_url", "image_sha256", "path")
ALL = "fetch,classify,embed,segment"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=6000, help="galaxies")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contestant", nargs=3, metavar=("NAME", "FOLDER", "STAGES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        name, folder, stages = args.contestant
        print(json.dumps(CONTESTANTS[name](Path(folder), stages, args.rows)))
        return
    with tempfile.TemporaryDirectory(prefix="galaxray-exactly-once-") as scratch:
        make_catalog(Path(scratch), args.rows)
        print(f"{CORES} cores, load {os.getloadavg()[0]:.1f}; rows/s of each round")
        rates: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
        for number in range(args.rounds):
            # In turn, and the other first in every second round.
            for name in sorted(CONTESTANTS, reverse=bool(number % 2)):
                command = [sys.executable, __file__, "--contestant", name, scratch, ALL, "--rows", str(args.rows)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{name}: {done.stderr}")
                rates[name].append(args.rows / json.loads(done.stdout.splitlines()[-1]))
        for name, values in rates.items():
            print(f"  {name:<16} {statistics.median(values):8.1f}   ({', '.join(f'{x:.1f}' for x in values)})")
        ours, plain = (statistics.median(rates[name]) for name in CONTESTANTS)
        print(f"  ratio            {ours / plain:8.3f}", flush=True)


def make_catalog(folder: Path, rows: int) -> None:
    """Draw pictures of the synthetic sky, and write a catalogue that shows each of them many times."""
    for number, galaxy in enumerate(catalog(PICTURES, seed=5)):
        picture = image(galaxy.ra_deg, galaxy.dec_deg, SIZE_PIXELS, galaxy.size_arcsec / SIZE_PIXELS)
        Image.fromarray(picture).save(folder / f"{number}.jpg", quality=90)
    columns = {
        "object_id": [f"g{row}" for row in range(rows)],
        "path": [f"{row % PICTURES}.jpg" for row in range(rows)],
    }
    pq.write_table(pa.table(columns), folder / "catalog.parquet")


def planned(folder: Path, stages: str, rows: int) -> tuple[RunConfig, ModelSet, Run]:
    config = RunConfig.model_validate(
        {
            "catalog": str(folder / "catalog.parquet"),
            "output": tempfile.mkdtemp(dir=folder),
            "stages": stages.split(","),
            "limit": rows,
            "cutouts": {"source": "files"},
            "compute": {"rows_per_unit": ROWS_PER_UNIT, "num_cpus": CORES + 2},
        }
    )
    config = settle_precision(config, "cpu")
    models = describe_models(config)
    galaxies = open_catalog(config.catalog, config.columns, need_coordinates=False, need_path=True)
    return config, models, plan_run(config, galaxies, models.record, versions={})


def exactly_once(folder: Path, stages: str, rows: int) -> float:
    """Seconds that our stream takes."""
    config, models, run = planned(folder, stages, rows)
    with connect(config.compute):
        from pipelines.stream import annotate  # ray reads the environment that connect makes when it is imported

        pools = allot(config, num_cpus=CORES, num_gpus=0)
        started = [unit.started for unit in annotate(run, config, pools, models.views, run.pending(), retry=False)]
        ended = time.time()
    Ledger(run).verify()
    return ended - min(started)


def plain_parquet(folder: Path, stages: str, rows: int) -> float:
    """Seconds that the same stages take in a stream that anyone would write."""
    config, models, run = planned(folder, stages, rows)
    with connect(config.compute):
        import ray

        pools = allot(config, num_cpus=CORES, num_gpus=0)
        names = [name for name in config.stages if name != "fetch"]
        dataset = ray.data.read_parquet(f"{config.output}/catalog", num_cpus=TASK_CPUS)
        dataset = dataset.repartition(target_num_rows_per_block=ROWS_PER_UNIT)
        dataset = through(dataset, pools["fetch"], partial(fetching, config), is_first=not names)
        dataset = through(dataset, pools["decode"], partial(decoding, list(models.views), pools["decode"].num_threads))
        if names:
            build = partial(model_stages, config, names, "cpu", pools["models"].num_threads)
            dataset = through(dataset, pools["models"], build, is_first=True)
        dataset = dataset.map_batches(finished, batch_size=None, num_cpus=TASK_CPUS)
        dataset.write_parquet(f"{config.output}/plain", ray_remote_args={"num_cpus": TASK_CPUS})
        ended = time.time()
    table = pq.read_table(f"{config.output}/plain")
    assert sorted(table["row_index"].to_pylist()) == list(range(run.num_rows))
    return ended - min(table["started"].to_pylist())


def fetching(config: RunConfig) -> dict[str, Stage]:
    return {"fetch": Fetch(config.cutouts)}


def decoding(views: list[View], num_threads: int) -> dict[str, Stage]:
    return {"decode": Decode(views, num_threads=num_threads)}


def through(
    dataset: ray.data.Dataset, pool: Pool, build: Callable[[], dict[str, Stage]], *, is_first: bool = False
) -> ray.data.Dataset:
    """Add a pool of actors to the plain stream."""
    import ray.data

    return dataset.map_batches(
        Plain,
        fn_constructor_kwargs={"build": build, "is_first": is_first},
        batch_size=ROWS_PER_UNIT,
        num_cpus=pool.num_cpus,
        compute=ray.data.ActorPoolStrategy(
            min_size=pool.min_actors,
            max_size=pool.max_actors,
            max_concurrent_calls_per_actor=pool.batches_in_flight,
            enable_true_multi_threading=not is_first,
        ),
    )


class Plain:
    """Runs stages on batches as Ray Data hands them over."""

    def __init__(self, build: Callable[[], dict[str, Stage]], is_first: bool) -> None:
        self.stages = build()
        self.is_first = is_first

    def __call__(self, batch: Batch) -> Batch:
        if self.is_first:
            batch = {**batch, "started": np.full(len(batch["row_index"]), time.time())}
        # What Arrow holds as null, Ray hands over as NaN.
        texts = {name: batch[name].tolist() for name in TEXT if name in batch}
        batch = batch | {name: text_array([None if x != x else x for x in text]) for name, text in texts.items()}
        for stage in self.stages.values():
            batch = stage(batch)
        return batch


def finished(batch: Batch) -> pa.Table:
    return to_table(batch)


CONTESTANTS = {"exactly once": exactly_once, "plain Parquet": plain_parquet}

if __name__ == "__main__":
    main()
