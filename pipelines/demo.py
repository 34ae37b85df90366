"""Annotate galaxies of the synthetic sky, offline: what ``make demo`` runs.

A catalogue is drawn from the synthetic sky, the sky's own cutout service is started on loopback, and the real program
annotates it over real HTTP with the built-in models. A few rows are bad on purpose: they show what becomes of them.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # only the library is installed, not the programs

from galaxray.synthetic import SyntheticService, catalog

CUTOUT_PIXELS = 128
CATALOG = "synthetic_galaxies.csv"
SEED = 7
"""Another part of the sky than the models were trained on."""


def main() -> int:
    """Make the catalogue, serve the sky, run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--limit", type=int, default=300, help="galaxies (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder (default: %(default)s)")
    arguments = parser.parse_args()

    began = time.monotonic()
    if not clear(arguments.output):
        print(f"error: {arguments.output} holds other files than a demo's: name another --output", file=sys.stderr)
        return 2
    path = arguments.output / CATALOG
    write_catalog(path, arguments.limit)
    with SyntheticService() as service:
        command = [
            *("pipelines/annotate_catalog.py", "--catalog", str(path), "--output", str(arguments.output / "run")),
            *("--cutouts.base_url", service.base_url, "--cutouts.requests_per_s", "none"),
            *("--cutouts.size_pixels", str(CUTOUT_PIXELS)),
        ]
        print(f"$ python {shlex.join(command)}", flush=True)
        status = subprocess.run([sys.executable, ROOT / command[0], *command[1:]], check=False).returncode
    print(f"{time.monotonic() - began:.0f} s in all. Open the report in a browser.")
    return status


def clear(folder: Path) -> bool:
    """Make an empty folder, in place of an earlier demo; False, with nothing done, if it may hold something else."""
    if folder.exists():
        found = {path.name for path in folder.iterdir()} if folder.is_dir() else {"a file"}
        if found and found not in ({CATALOG}, {CATALOG, "run"}) and folder.resolve() != ROOT / "demo":
            return False
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return True


def write_catalog(path: Path, num: int) -> None:
    """Write a CSV catalogue: galaxies, and as the last rows some that cannot be annotated."""
    awkward = [
        ("no-such-declination", 150.0, 95.0, 60.0),
        ("no-position", "", "", 60.0),
        ("north-of-the-survey", 10.0, 88.0, 60.0),
    ]
    galaxies = catalog(max(0, num - len(awkward)), seed=SEED)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["object_id", "ra", "dec", "size_arcsec"])
        for galaxy in galaxies:
            writer.writerow([galaxy.object_id, galaxy.ra_deg, galaxy.dec_deg, round(galaxy.size_arcsec, 3)])
        writer.writerows(awkward[: num - len(galaxies)])


if __name__ == "__main__":
    sys.exit(main())
