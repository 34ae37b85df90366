"""A folder of images as a catalogue: id_str, file_loc and, where it has sub-folders, label."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from galaxray.errors import CatalogError

__all__ = ["IMAGE_SUFFIXES", "describe_images"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".fits")
SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


def describe_images(folder: str) -> tuple[str, int, tuple[str, ...]]:
    """List a folder of images, in the order of their paths.

    An image's identifier is its name without the ending; where two have the same name in different sub-folders, all
    identifiers are paths below the folder. Sub-folders are classes, as in torchvision's ``ImageFolder``. What is hidden
    (begins with a dot) and what has another ending is passed over.

    Parameters
    ----------
    folder : str
        A local path.

    Returns
    -------
    catalogue : str
        CSV with the columns ``id_str``, ``file_loc`` (absolute) and, if there are classes, ``label``.
    num_images : int
    classes : tuple of str
        Sorted; empty where there are no sub-folders.

    Raises
    ------
    CatalogError
        If there is no such folder, it has no images, a name is no UTF-8, or the sub-folders are named like splits.
    """
    root = Path(folder).expanduser().absolute()
    if not root.is_dir():
        raise CatalogError(f"{folder}: no such folder of images (it is to be on a disk that all workers see)")
    paths = sorted(_images(root), key=os.fsencode)
    if not paths:
        raise CatalogError(f"{folder}: no images in it; their names end in {', '.join(IMAGE_SUFFIXES)}")
    try:
        "\n".join(paths).encode()
    except UnicodeEncodeError as error:
        raise CatalogError(f"{folder}: the name of an image is no UTF-8 text: {error.object[:200]!a}") from error
    stems = [path.rpartition(".")[0] for path in paths]
    _require_different(folder, stems, paths)
    names = [stem.rpartition("/")[2] for stem in stems]
    ids = names if len(set(names)) == len(names) else stems
    labels = [path.partition("/")[0] if "/" in path else "" for path in paths]
    classes = tuple(sorted(set(labels) - {""}))
    if classes and {name.lower() for name in classes} <= SPLIT_NAMES:
        raise CatalogError(
            f"{folder}: its sub-folders are {', '.join(classes)}: splits are drawn here by a hash of the identifier; "
            f"name a folder of images or of classes ({root.name}/{classes[0]})"
        )
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")  # or a name with # would be a comment
    writer.writerow(["id_str", "file_loc", *(["label"] if classes else [])])
    for name, path, label in zip(ids, paths, labels, strict=True):
        writer.writerow([name, f"{root}/{path}", *([label] if classes else [])])
    return text.getvalue(), len(paths), classes


def _images(root: Path) -> list[str]:
    """Paths of the images below a folder, with ``/`` between their parts."""
    found = []
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(place).relative_to(root)
        found += [
            (below / name).as_posix()
            for name in files
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        ]
    return found


def _require_different(folder: str, stems: list[str], paths: list[str]) -> None:
    seen: dict[str, str] = {}
    for stem, path in zip(stems, paths, strict=True):
        if stem in seen:
            raise CatalogError(f"{folder}: {seen[stem]} and {path} have the same identifier: remove or rename one")
        seen[stem] = path
