"""Serve the synthetic sky, or write a catalogue or a montage of it: ``python -m galaxray.synthetic --port 8765``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from galaxray.synthetic.montage import montage
from galaxray.synthetic.service import serve
from galaxray.synthetic.sky import catalog


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m galaxray.synthetic", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8765, help="port, 0 for a free one (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads that draw (default %(default)s)")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started this")
    parser.add_argument("--montage", type=Path, metavar="FILE", help="write a picture of the kinds of galaxies instead")
    parser.add_argument("--catalog", type=Path, metavar="FILE", help="write a CSV catalogue instead")
    parser.add_argument("--num", type=int, default=300, help="galaxies in the catalogue (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which catalogue, 0 to 63 (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.montage:
        montage().save(options.montage, quality=85, optimize=True)
    elif options.catalog:
        _write_catalog(options.catalog, options.num, options.seed)
    else:
        with contextlib.suppress(KeyboardInterrupt):
            parent = sys.stdin if options.until_stdin_closes else None
            asyncio.run(serve(options.host, options.port, options.threads, parent))


def _write_catalog(path: Path, num: int, seed: int) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["object_id", "ra_deg", "dec_deg", "size_arcsec"])
        for galaxy in catalog(num, seed):
            row = [galaxy.object_id, f"{galaxy.ra_deg:.7f}", f"{galaxy.dec_deg:.7f}", f"{galaxy.size_arcsec:.3f}"]
            writer.writerow(row)


if __name__ == "__main__":
    main()
