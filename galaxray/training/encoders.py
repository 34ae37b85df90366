"""What a finetuning starts from: an encoder with or without weights, and the order of its blocks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from galaxray.errors import ConfigError, WeightsError
from galaxray.images import View
from galaxray.models.checkpoint import load_checkpoint
from galaxray.models.classifier import ClassifierNet, is_architecture
from galaxray.models.modest import require_modest
from galaxray.models.weights import first_line, load_model, resolve

__all__ = ["StartEncoder", "blocks_of", "find_encoder"]

BARE_SUFFIXES = (".bin", ".pt", ".pth")
HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PREFIXES = ("encoder.", "module.", "_orig_mod.")
ZOOBOT_VIEW = View(224, 1.2)


@dataclass(frozen=True, kw_only=True)
class StartEncoder:
    """An encoder to start from.

    Attributes
    ----------
    arch : str
        timm architecture.
    options : dict
        More arguments of ``timm.create_model``.
    in_chans : int
    state : mapping of str to Tensor, or None
        Weights; None begins with random ones.
    view : View
        What it is used to see.
    source : str
        For the model card: the reference, and the digest of the file.
    """

    arch: str
    options: dict[str, Any] = field(default_factory=dict)
    in_chans: int = 3
    state: Mapping[str, Tensor] | None = None
    view: View = ZOOBOT_VIEW
    source: str

    def build(self, outputs: int, task: Any, *, dropout: float, unit_interval: bool) -> ClassifierNet:
        """Make a classifier with this encoder and a new head.

        Raises
        ------
        WeightsError
            If the weights do not fit the architecture.
        """
        net = ClassifierNet(self.arch, outputs, task, dropout, unit_interval, self.in_chans, self.options)
        if self.state is not None:
            try:
                net.encoder.load_state_dict(self.state)
            except RuntimeError as error:
                raise WeightsError(f"{self.source} does not fit {self.arch}: {first_line(error)}") from None
        return net


def find_encoder(ref: str, arch: str | None = None) -> StartEncoder:
    """Find what to start from.

    Parameters
    ----------
    ref : str
        A timm architecture for random weights (``convnext_nano``: nothing is downloaded); ``builtin:classifier``; a
        model file of ours or a Zoobot checkpoint, whose encoder is taken; a file with the weights of a timm encoder
        alone (``pytorch_model.bin``, ``model.safetensors``); or one of these on the hub, ``hf_hub:OWNER/NAME``.
    arch : str, optional
        timm architecture, where the file does not tell.

    Raises
    ------
    ConfigError
        If there is no such architecture or file.
    WeightsError
        If the file is damaged or not trusted.
    """
    if is_architecture(ref):
        return StartEncoder(arch=ref, source=f"{ref}, random weights")
    if ref.startswith("hf_hub:"):
        path = _hub_encoder(ref) or resolve(ref)
    elif ref.startswith("builtin:") or Path(ref).expanduser().exists() or "/" in ref:
        path = resolve(ref)
    else:
        raise ConfigError(
            f"--encoder {ref} is neither an architecture of timm nor a file: e.g. convnext_nano, builtin:classifier, "
            "my_model.safetensors, hf_hub:mwalmsley/zoobot-encoder-convnext_nano"
        )
    source = f"{ref}, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    if path.suffix in BARE_SUFFIXES or (path.suffix == ".safetensors" and not path.with_suffix(".json").exists()):
        return _bare(path, arch, source)
    if path.suffix == ".safetensors":
        net, card = load_model(path, "classifier")
        assert isinstance(net, ClassifierNet)
        view = View(**card["view"])
    else:
        net, view = load_checkpoint(path, arch).model, ZOOBOT_VIEW
    described = net.architecture
    return StartEncoder(
        arch=described["arch"],
        options=described["encoder_options"],
        in_chans=described["in_chans"],
        state=net.encoder.state_dict(),
        view=view,
        source=source,
    )


def _bare(path: Path, arch: str | None, source: str) -> StartEncoder:
    """A file of weights and no more, with timm's ``config.json`` beside it or an architecture from the user."""
    config = path.with_name("config.json")
    if arch is None and config.is_file():
        try:
            arch = json.loads(config.read_text(encoding="utf-8")).get("architecture")
        except (ValueError, AttributeError) as error:
            raise WeightsError(f"{config} is no description of a timm model: {error}") from None
    if not is_architecture(arch):
        raise ConfigError(
            f"{path} does not say which timm architecture it is of: give it by --arch, e.g. convnext_nano"
        )
    assert arch is not None
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        state = {_without_prefix(name): tensor for name, tensor in dict(loaded.get("state_dict", loaded)).items()}
        state = {
            name: tensor for name, tensor in state.items() if not name.startswith(("head.fc.", "classifier.", "fc."))
        }
        described = timm.get_pretrained_cfg(arch)
        first = described.first_conv if described is not None else None
        in_chans = int(state[f"{first if isinstance(first, str) else (first or ['conv'])[0]}.weight"].shape[1])
        require_modest([in_chans])
    except Exception as error:  # whatever a reader of a foreign file makes of it
        raise WeightsError(f"{path} holds no weights of an encoder: {first_line(error)}") from None
    return StartEncoder(arch=arch, in_chans=in_chans, state=state, source=source)


def _without_prefix(name: str) -> str:
    return re.sub(rf"^({'|'.join(map(re.escape, PREFIXES))})+", "", name)


def _hub_encoder(ref: str) -> Path | None:
    """Weights of a bare encoder on the hub, with its config beside them; None if the repository holds none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository = ref.removeprefix("hf_hub:")
    for name in HUB_WEIGHTS:
        try:
            path = Path(hf_hub_download(repository, name))
            hf_hub_download(repository, "config.json")
            return path
        except LocalEntryNotFoundError as error:
            raise WeightsError(f"{ref} cannot be had from the Hugging Face hub: {first_line(error)}") from None
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise WeightsError(f"{ref} cannot be had from the Hugging Face hub: {first_line(error)}") from None
    return None


def blocks_of(encoder: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters of an encoder by block, from the stem to the top.

    Blocks are what zoobot counts as such: the stages of a ResNet, ConvNeXt or MaxViT, the blocks of an EfficientNet or
    a vision transformer; what comes before the first is the stem, what comes after the last (a norm) goes with it.

    Parameters
    ----------
    encoder : nn.Module
        Of timm.

    Raises
    ------
    ConfigError
        If it has no blocks that can be told apart.
    """
    found = next((getattr(encoder, name) for name in ("stages", "blocks") if hasattr(encoder, name)), None)
    if found is None:
        found = [getattr(encoder, f"layer{number}") for number in range(1, 5) if hasattr(encoder, f"layer{number}")]
    blocks = [list(block.parameters()) for block in found]
    if not blocks:
        raise ConfigError(
            f"the blocks of a {type(encoder).__name__} cannot be told apart: train it whole, --blocks all --lr-decay 1"
        )
    inside = {id(parameter) for block in blocks for parameter in block}
    everything = list(encoder.parameters())
    last = max(number for number, parameter in enumerate(everything) if id(parameter) in inside)
    others = [(number > last, parameter) for number, parameter in enumerate(everything) if id(parameter) not in inside]
    blocks[-1] += [parameter for is_after, parameter in others if is_after]
    return [[parameter for is_after, parameter in others if not is_after], *blocks]
