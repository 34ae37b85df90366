"""Our model files: ``NAME.safetensors`` (weights) with ``NAME.json`` (the card: how to build and to feed it).

The card says of the model its ``kind``, ``architecture`` (constructor arguments), ``view`` (image size and zoom),
labels or decision tree, training data and metrics. Neither file can run code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from galaxray import __version__
from galaxray.errors import WeightsError
from galaxray.models.classifier import ClassifierNet
from galaxray.models.modest import require_modest, require_shapes
from galaxray.models.unet import UNet
from galaxray.models.vae import VAE

__all__ = [
    "BUILTIN_FOLDER",
    "KINDS",
    "load_model",
    "read_card",
    "resolve",
    "save_model",
]

FORMAT = "galaxray-model-1"
KINDS: dict[str, type[nn.Module]] = {
    "classifier": ClassifierNet,
    "vae": VAE,
    "unet": UNet,
}
MAX_CARD_BYTES = 2**20
BUILTIN_FOLDER = Path(__file__).parent / "builtin"
HUB_FILES = ("FinetuneableZoobotTree.ckpt", "FinetuneableZoobotClassifier.ckpt", "FinetuneableZoobotRegressor.ckpt")
# as zoobot's load_from_name expects them


def save_model(stem: Path | str, module: nn.Module, card: Mapping[str, Any], *, half: bool = False) -> Path:
    """Write ``STEM.safetensors`` and ``STEM.json``.

    Parameters
    ----------
    stem : path
        Path without suffix.
    module : ClassifierNet, VAE or UNet
        The model; its ``architecture`` goes into the card.
    card : mapping
        What else to say: ``view`` (``{"size": ..., "zoom": ...}``), ``tree`` or ``labels``, ``training``, ``metrics``.
    half : bool
        Store matrices and kernels in 16 bits; vectors (biases, batch statistics) keep 32.

    Returns
    -------
    Path
        The weights' file.
    """
    kind = next(name for name, cls in KINDS.items() if type(module) is cls)
    tensors = {}
    for name, tensor in module.state_dict().items():
        stored = tensor.detach().cpu()
        if half and stored.ndim > 1 and stored.is_floating_point():
            stored = stored.half()
        tensors[name] = stored.contiguous().clone()
    weights, description = _paths(Path(stem))
    data = save_tensors(tensors)
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(data)
    head = {
        "format": FORMAT,
        "galaxray": __version__,
        "kind": kind,
        "architecture": module.architecture,
        "parameters": sum(p.numel() for p in module.parameters()),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    description.write_text(json.dumps({**card, **head}, indent=2) + "\n", encoding="utf-8")
    return weights


def resolve(ref: str) -> Path:
    """Find a model file.

    Parameters
    ----------
    ref : str
        A path; ``builtin:NAME`` for a model that comes with galaxray; or ``hf_hub:OWNER/NAME`` or
        ``hf_hub:OWNER/NAME/FILE`` on the Hugging Face hub, the only one for which the network is used.

    Raises
    ------
    WeightsError
        If there is no such file.
    """
    if ref.startswith("hf_hub:"):
        return _download(ref)
    if ref.startswith("builtin:"):
        name = ref.removeprefix("builtin:")
        path = BUILTIN_FOLDER / f"{name}.safetensors"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in BUILTIN_FOLDER.glob("*.safetensors"))) or "none"
            raise WeightsError(f"no built-in model {name!r}; there are: {known}")
        return path
    given = Path(ref).expanduser()
    for path in (given, _paths(given)[0]):
        if path.is_file() and path.suffix != ".json":
            return path
    raise WeightsError(f"model file {ref} does not exist")


def _download(ref: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    owner, _, name = ref.removeprefix("hf_hub:").partition("/")
    name, *file = name.split("/", 1)
    if not (owner and name and all(file)):
        raise WeightsError(f"{ref} is no address on the hub: it reads hf_hub:OWNER/NAME or hf_hub:OWNER/NAME/FILE")
    try:
        for filename in file or HUB_FILES:
            try:
                path = Path(hf_hub_download(f"{owner}/{name}", filename))
                if path.suffix == ".safetensors":  # its card comes to lie beside it
                    with suppress(EntryNotFoundError):
                        hf_hub_download(f"{owner}/{name}", _paths(Path(filename))[1].as_posix())
                return path
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(f"{ref} cannot be had from the Hugging Face hub: {first_line(error)}") from None
    raise WeightsError(f"{ref} holds none of {', '.join(file or HUB_FILES)}")


def read_card(weights: Path) -> dict[str, Any]:
    """Read the card beside a ``.safetensors`` file.

    Raises
    ------
    WeightsError
        If it is missing or is no card of ours.
    """
    path = _paths(weights)[1]
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CARD_BYTES + 1)
        if len(content) > MAX_CARD_BYTES:
            raise WeightsError(f"{path} is larger than {MAX_CARD_BYTES} bytes, which no card is")
        card = json.loads(content)
    except FileNotFoundError:
        raise WeightsError(f"{weights} has no card beside it ({path.name}): copy both files") from None
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and brackets without end
        raise WeightsError(f"{path} is no valid JSON: {error}") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT or str(card.get("kind")) not in KINDS:
        raise WeightsError(f"{path} is not the card of a galaxray model (format {FORMAT})")
    if not isinstance(card.get("architecture"), dict):
        raise WeightsError(f"{path} does not say how to build the model: it has no architecture")
    return card


def load_model(weights: Path | str, kind: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a model from its two files.

    Parameters
    ----------
    weights : path
        The ``.safetensors`` file, or the stem.
    kind : str, optional
        ``classifier``, ``vae`` or ``unet``, where only that will do.

    Returns
    -------
    module : nn.Module
        In evaluation mode, float32, on the CPU.
    card : dict

    Raises
    ------
    WeightsError
        If a file is missing, damaged, or holds another kind of model.
    """
    path = _paths(Path(weights))[0]
    card = read_card(path)
    if kind is not None and card["kind"] != kind:
        raise WeightsError(f"{path} holds a {card['kind']}, not a {kind}")
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != card.get("sha256"):
            raise WeightsError(f"{path} is damaged: its SHA-256 is not the one on its card")
        state = {name: t.float() if t.is_floating_point() else t for name, t in load_tensors(data).items()}
        require_modest(card["architecture"])
        require_shapes(KINDS[card["kind"]], card["architecture"], state)
        module = KINDS[card["kind"]](**card["architecture"])
        module.load_state_dict(state)
    except WeightsError:
        raise
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read: {first_line(error)}") from None
    except Exception as error:  # whatever torch and timm make of what the card says
        raise WeightsError(f"{path} does not fit the architecture on its card: {first_line(error)}") from None
    return module.eval().requires_grad_(False).to(torch.float32), card


def first_line(error: BaseException) -> str:
    """First line of what an error of torch or the hub says; they go on for pages."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _paths(stem: Path) -> tuple[Path, Path]:
    # not with_suffix(): a stem may hold a dot ("classifier-1.2")
    base = str(stem)
    for suffix in (".safetensors", ".json"):
        base = base.removesuffix(suffix)
    return Path(base + ".safetensors"), Path(base + ".json")
