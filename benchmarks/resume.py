"""Go on with a run of which millions of rows are done: seconds to the first request, memory of the program.

    python benchmarks/resume.py                             # 1, 10 and 50 million rows, --stages fetch; 6 GB of disk
    python benchmarks/resume.py --rows 50 --stages fetch,classify,embed,segment
    python benchmarks/resume.py --rows 50 --rows-per-unit 320    # as a polite run at 10 requests/s has it
    python benchmarks/resume.py --s3                        # requests that S3 sees per million rows, counted by moto

The run folder is made of copies of one finished unit with the columns of all built-in models, its number replaced in
each; the footers are those of real files, the rows are null. Two units are left to do. The program is the real one, in
a process of its own; it fetches from a server on loopback, which notes when the first request comes. Files are put out
of the page cache first, as those of a run that is gone on with days later are.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from galaxray.batches import text_array
from galaxray.catalog import open_catalog
from galaxray.config import STAGES, RunConfig
from galaxray.ledger import Ledger
from galaxray.modelset import describe_models, model_stages, settle_precision
from galaxray.plan import plan_run
from galaxray.runs import UNITS_PER_PART, Run, open_run, part_name, unit_name
from galaxray.schema import to_table
from galaxray.stages import Decode
from galaxray.storage import S3Folder, open_folder

LEFT = 2
"""Units that are left to do."""
TEMPLATE = 10_000_000
"""Number of the unit that is copied: as many digits as fit into its place."""
STATUSES = {"ok": 0.97, "not_covered": 0.02, "throttled": 0.01}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=float, nargs="+", default=[1, 10, 50], help="rows that are done, in millions")
    parser.add_argument("--rows-per-unit", type=int, default=1024)
    parser.add_argument("--stages", default="fetch")
    parser.add_argument("--folder", type=Path, help="where to make the run folders; a temporary one otherwise")
    parser.add_argument("--s3", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="galaxray-resume-", dir=arguments.folder))
    try:
        if arguments.s3:
            count_requests(folder, arguments.rows_per_unit)
            return
        print("million rows | units | made in s | first request after s | whole run s | peak MB | counting alone s, MB")
        for millions in arguments.rows:
            measure(folder, round(millions * 1e6), arguments.rows_per_unit, arguments.stages)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, rows: int, rows_per_unit: int, stages: str) -> None:
    """Make a run of which so many rows are done, go on with it, and print a line of the table."""
    output = folder / "run"
    with Service() as service:
        began = time.monotonic()
        config = settings(folder, str(output), rows_per_unit, stages, service.url)
        run = make_run(config, rows)
        forget(output / "annotations")
        made_s = time.monotonic() - began
        began = time.monotonic()
        peak = resume(config, service.url)
        total_s = time.monotonic() - began
        first_s = (service.first or np.nan) - began
    forget(output / "annotations")
    alone = subprocess.run(
        [sys.executable, "-c", COUNT_ALONE, str(output)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    print(
        f"{(run.num_units - LEFT) * rows_per_unit / 1e6:12.2f} | {run.num_units:6,} | {made_s:9.0f} | {first_s:21.1f} "
        f"| {total_s:11.1f} | {peak / 1e6:7.0f} | {alone[0]:>9}, {alone[1]}",
        flush=True,
    )
    shutil.rmtree(output)


COUNT_ALONE = """
import re, sys, time
from pathlib import Path
from galaxray.ledger import Ledger
from galaxray.runs import open_run
run = open_run(sys.argv[1])
began = time.monotonic()
Ledger(run).verify()
status = Path("/proc/self/status").read_text().replace("\\t", " ")
print(f"{time.monotonic() - began:.1f}", f"{int(re.search('VmHWM: *([0-9]+)', status)[1]) / 1000:.0f}")
"""


def settings(folder: Path, output: str, rows_per_unit: int, stages: str, url: str) -> RunConfig:
    """Configuration of a run over a catalogue with just the rows that are left to do."""
    catalog = folder / "catalog.csv"
    lines = [f"g{row},{row % 360},{row % 90}" for row in range(LEFT * rows_per_unit)]
    catalog.write_text("\n".join(["object_id,ra,dec", *lines]) + "\n")
    cutouts = {"base_url": url, "size_pixels": 64, "requests_per_s": None, "timeout_s": 60}
    compute = {"rows_per_unit": rows_per_unit, "stall_timeout_s": 600}
    config = RunConfig.model_validate(
        {"catalog": str(catalog), "output": output, "stages": stages.split(","), "cutouts": cutouts, "compute": compute}
    )
    return settle_precision(config, "cpu")


def make_run(config: RunConfig, rows: int) -> Run:
    """Plan a run and make it one of which ``rows`` rows, rounded up to a whole part, are done."""
    catalog = open_catalog(config.catalog, config.columns)
    run = plan_run(config, catalog, describe_models(config).record, versions={})
    content = template(run, config)
    done = UNITS_PER_PART * -(-rows // (run.rows_per_unit * UNITS_PER_PART))
    record = run.record | {"num_units": done + LEFT}
    record["catalog"] = record["catalog"] | {"rows": run.num_rows + done * run.rows_per_unit}
    shift_catalog(run, done)
    run.folder.write("run.json", json.dumps(record).encode())
    write_units(run, content, done)
    planned = open_run(run.output)
    assert planned is not None
    return planned


def shift_catalog(run: Run, done: int) -> None:
    """Put the rows that are left behind those that are done."""
    with run.folder.open(part_name(0)) as file:
        table = pq.read_table(file)
    column = table.schema.get_field_index("row_index")
    table = table.set_column(
        column, table.schema.field(column), pa.array(table["row_index"].to_numpy() + done * run.rows_per_unit)
    )
    sink = BytesIO()
    pq.write_table(table, sink, row_group_size=run.rows_per_unit)
    run.folder.write(part_name(done // UNITS_PER_PART), sink.getvalue())


def template(run: Run, config: RunConfig) -> bytes:
    """The file of a finished unit, with all columns."""
    rows = run.rows_per_unit
    batch = run.read_unit(0)
    nothing = text_array([None] * rows)
    batch |= {"status": text_array(["unreachable"] * rows), "error": nothing, "image_bytes": nothing}
    batch |= {"image_url": nothing, "image_sha256": nothing, "pixel_scale_arcsec": np.full(rows, 0.262)}
    batch = Decode(describe_models(config.model_copy(update={"stages": STAGES})).views)(batch)
    for stage in model_stages(config, STAGES, "cpu", 2).values():
        batch = stage(batch)
    counts = [round(rows * share) for share in STATUSES.values()]
    counts[0] += rows - sum(counts)
    statuses = [status for status, count in zip(STATUSES, counts, strict=True) for _ in range(count)]
    batch["status"] = text_array(statuses)
    batch["error"] = text_array([None if status == "ok" else f"it was {status}" for status in statuses])
    large = replace(run, num_units=TEMPLATE + 1, num_rows=(TEMPLATE + 1) * rows)
    large.commit(TEMPLATE, to_table(batch))
    content = run.folder.read(unit_name(TEMPLATE))
    run.folder.remove(unit_name(TEMPLATE))
    return content


def write_units(run: Run, content: bytes, count: int) -> None:
    """Write copies of a unit, each with a number of its own."""
    number = f'"unit": {TEMPLATE}'.encode()
    assert content.count(number) == 1
    before, after = content.split(number)
    folder = None if run.output.startswith("s3://") else Path(run.output)
    for unit in range(count):
        numbered = before + f'"unit": {unit:>{len(str(TEMPLATE))}}'.encode() + after
        if folder is None:
            run.folder.write(unit_name(unit), numbered)
        else:
            (folder / unit_name(unit)).write_bytes(numbered)


def forget(folder: Path) -> None:
    """Put the files of a folder out of the page cache."""
    os.sync()
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resume(config: RunConfig, url: str) -> float:
    """Run the program; the peak of its resident memory in bytes."""
    flags = ["--catalog", config.catalog, "--output", config.output, "--stages", ",".join(config.stages)]
    flags += ["--cutouts.base_url", url, "--cutouts.size_pixels", "64", "--cutouts.requests_per_s", "none"]
    flags += ["--cutouts.timeout_s", "60", "--compute.precision", config.compute.precision]
    process = subprocess.Popen(
        [sys.executable, "pipelines/annotate_catalog.py", *flags],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = 0.0
    with tempfile.TemporaryFile("w+") as log:
        reader = threading.Thread(target=shutil.copyfileobj, args=(process.stderr, log))
        reader.start()
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            if found := re.search(r"VmHWM:\s+(\d+) kB", status):
                peak = max(peak, 1024.0 * int(found[1]))
            time.sleep(0.2)
        reader.join()
        log.seek(0)
        if process.returncode:
            raise SystemExit(f"the program ended with status {process.returncode}:\n{log.read()}")
    return peak


def count_requests(folder: Path, rows_per_unit: int, units: int = 2 * UNITS_PER_PART) -> None:
    """Count what a resume asks of S3, on a run of some hundred units; print it per million rows."""
    from moto.server import ThreadedMotoServer

    requests = Requests()
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("resume")
    config = settings(folder, "s3://resume/run", rows_per_unit, "fetch", "http://127.0.0.1:9")
    run = make_run(config, units * rows_per_unit)
    requests.take()
    listing = run.listing()
    listed = requests.take()
    Ledger(run).count(listing)
    counted = requests.take()
    server.stop()
    print(f"{units} units: the listing asked {listed}, the counting {counted}")
    assert isinstance(open_folder(run.output), S3Folder)
    per_million = 1e6 / rows_per_unit
    print(f"a million rows are {per_million:,.0f} units: {per_million / 1000:.1f} pages of a listing, one GET per unit")


class Requests(logging.Handler):
    """Counts the requests that moto's server logs, by method."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        logger = logging.getLogger("werkzeug")
        logger.handlers, logger.propagate = [self], False

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

    def take(self) -> dict[str, int]:
        """Requests by method since this was last asked."""
        lines, self._lines = self._lines, []
        methods = Counter(match[1] for line in lines if (match := re.search("(GET|HEAD|PUT|POST) /", line)))
        return dict(methods)


class Service:
    """A server that answers any request with one picture, and notes when it was first asked."""

    def __enter__(self) -> Service:
        self.first: float | None = None
        picture = BytesIO()
        noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(picture, "JPEG")
        service, body = self, picture.getvalue()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                service.first = service.first or time.monotonic()
                self.send_response(200)
                self.send_header("Content-Type", "image/jpeg")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


if __name__ == "__main__":
    main()
