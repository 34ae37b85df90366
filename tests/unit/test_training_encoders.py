"""What a finetuning starts from: every kind of file, and the order of an encoder's blocks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from galaxray.errors import ConfigError, WeightsError
from galaxray.models.classifier import ClassifierNet
from galaxray.models.weights import save_model
from galaxray.training.encoders import blocks_of, find_encoder

OPTIONS = {"channels": [4, 4, 8, 8]}


def built(ref: object, arch: str | None = None) -> dict[str, Tensor]:
    encoder = find_encoder(str(ref), arch)
    net = encoder.build(3, "classes", dropout=0.1, unit_interval=False)
    assert net.head.linear.out_features == 3
    return dict(net.encoder.state_dict())


@pytest.fixture(scope="module")
def tiny() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return dict(timm.create_model("mobilenetv3_small_050", num_classes=0).state_dict())


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_an_architecture_begins_with_random_weights_and_the_view_of_zoobot() -> None:
    encoder = find_encoder("mobilenetv3_small_050")
    assert encoder.state is None
    assert (encoder.view.size, encoder.view.zoom) == (224, 1.2)


def test_the_encoder_of_a_model_of_ours_comes_with_its_view(tmp_path: Path) -> None:
    net = ClassifierNet("resnet18", 7, "classes", encoder_options=OPTIONS)
    save_model(tmp_path / "m", net, {"view": {"size": 96, "zoom": 1.0}, "labels": list("abcdefg")})
    encoder = find_encoder(str(tmp_path / "m.safetensors"))
    assert encoder.view.size == 96
    assert encoder.options == OPTIONS
    assert same(built(tmp_path / "m.safetensors"), dict(net.encoder.state_dict()))
    assert find_encoder("builtin:classifier").view.size == 128


@pytest.mark.parametrize("prefix", ["", "encoder.", "module.encoder."])
def test_a_file_of_weights_alone(tmp_path: Path, tiny: dict[str, Tensor], prefix: str) -> None:
    torch.save({prefix + name: tensor for name, tensor in tiny.items()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="--arch"):
        find_encoder(str(tmp_path / "pytorch_model.bin"))
    assert same(built(tmp_path / "pytorch_model.bin", "mobilenetv3_small_050"), tiny)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "mobilenetv3_small_050"}))
    assert same(built(tmp_path / "pytorch_model.bin"), tiny)
    save_file({name: tensor.contiguous() for name, tensor in tiny.items()}, tmp_path / "model.safetensors")
    assert same(built(tmp_path / "model.safetensors"), tiny)


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match="neither an architecture of timm nor a file"):
        find_encoder("convnext_nanoo")
    with pytest.raises(WeightsError, match="does not exist"):
        find_encoder(str(tmp_path / "none.ckpt"))
    torch.save(tiny, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"holds no weights of an encoder: 'conv1\.weight'"):
        find_encoder(str(tmp_path / "w.pt"), "resnet18")
    with pytest.raises(WeightsError, match="does not fit mobilenetv3_small_100"):
        built(tmp_path / "w.pt", "mobilenetv3_small_100")
    (tmp_path / "bad.pt").write_bytes(b"not a model")
    with pytest.raises(WeightsError, match="holds no weights of an encoder"):
        find_encoder(str(tmp_path / "bad.pt"), "resnet18")
    torch.save({"evil": print}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="holds no weights of an encoder"):
        find_encoder(str(tmp_path / "evil.pt"), "resnet18")


@pytest.mark.parametrize(
    ("arch", "blocks", "first", "last"),
    [
        ("resnet18", 5, "conv1.weight", "layer4.1.bn2.bias"),
        ("convnext_atto", 5, "stem.0.weight", "head.norm.weight"),
        ("mobilenetv3_small_050", 7, "conv_stem.weight", "conv_head.weight"),
        ("vit_tiny_patch16_224", 13, "cls_token", "norm.weight"),
    ],
)
def test_blocks_are_the_whole_encoder_from_the_stem_to_the_top(arch: str, blocks: int, first: str, last: str) -> None:
    encoder = timm.create_model(arch, num_classes=0)
    found = blocks_of(encoder)
    names = {id(parameter): name for name, parameter in encoder.named_parameters()}
    assert len(found) == blocks
    assert sorted(names[id(p)] for block in found for p in block) == sorted(names.values())
    assert first in {names[id(p)] for p in found[0]}
    assert last in {names[id(p)] for p in found[-1]}


def test_an_encoder_without_blocks_is_trained_whole_or_not_at_all() -> None:
    with pytest.raises(ConfigError, match="--blocks all --lr-decay 1"):
        blocks_of(timm.create_model("vgg11", num_classes=0))
