"""The training loop: goes on from any step as if nothing had happened, alone or with others."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from galaxray.errors import ConfigError, RunError
from galaxray.training.draws import StepDraws, epoch_order
from galaxray.training.loop import LoopConfig, Trainer
from galaxray.training.rates import Stretch, everything
from galaxray.training.task import Report
from galaxray.training.workers import Workers

CONFIG = LoopConfig(epochs=3, batch_size=8, learning_rate=1e-2, seed=5, bf16=False, report_every_s=1e-9)


class Blobs:
    """Tell bright images from dark ones, with dropout, batch statistics and noise."""

    def __init__(self, num_images: int = 36, stretches: Sequence[Stretch] | None = None) -> None:
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 1))
        self.model: nn.Module = nn.Sequential(self.body, self.head)
        self.num_images = num_images
        self.images = torch.rand(num_images, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        self.targets = (self.images.mean((1, 2, 3)) > 0.5).float()
        self.validation_losses: list[float] | None = None
        self._stretches = stretches
        self.seen: list[list[int]] = []

    def stretches(self, epochs: int) -> Sequence[Stretch]:
        return self._stretches or everything(self.model, epochs)

    def batch(self, rows: np.ndarray, draws: StepDraws) -> tuple[Tensor, ...]:
        self.seen.append(rows.tolist())
        noise = torch.randn(len(rows), 3, 8, 8, generator=draws.generator())
        brightness = draws.of_images(rows, 1)[:, :, None, None]
        return self.images[rows] + 0.01 * noise + 0.01 * brightness, self.targets[rows]

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        return functional.binary_cross_entropy_with_logits(model(batch[0])[:, 0], batch[1])

    def validate(self, model: nn.Module) -> Report:
        if self.validation_losses:
            return {"validation_loss": self.validation_losses.pop(0)}
        return {"validation_loss": float(self.loss(model, (self.images, self.targets), 1.0))}


def ignore(kind: str, figures: Report) -> None:
    pass


def test_it_goes_on_from_any_step_with_the_same_weights() -> None:
    whole = Trainer(Blobs(), CONFIG)
    states: list[bytes] = []
    config = CONFIG.model_copy(update={"save_every_s": 1e-9})
    watched = Trainer(Blobs(), config)
    whole.train(ignore)
    watched.train(ignore, states.append)
    assert len(states) == 3 * (36 // 8)  # after each step; after the last of an epoch once it is validated
    for state in states:
        again = Trainer(Blobs(), CONFIG)
        with torch.no_grad():
            for parameter in again.model.parameters():
                parameter.fill_(9)  # what it begins with is of no matter
        again.restore(state)
        again.train(ignore)
        assert again.history == whole.history
        for name, tensor in whole.finished().state_dict().items():
            assert torch.equal(again.finished().state_dict()[name], tensor), name


def test_an_epoch_shows_each_image_once_and_each_epoch_another_order() -> None:
    task = Blobs(num_images=16)
    Trainer(task, CONFIG).train(ignore)
    epochs = [task.seen[first] + task.seen[first + 1] for first in range(0, len(task.seen), 2)]
    assert len(epochs) == 3
    assert all(sorted(rows) == list(range(16)) for rows in epochs)
    assert epochs[0] != epochs[1]
    np.testing.assert_array_equal(epoch_order(16, CONFIG.seed, 2), epochs[2])


def test_what_is_drawn_for_an_image_depends_on_nothing_but_image_epoch_and_seed() -> None:
    def draw(rows: list[int], **where: int) -> Tensor:
        return StepDraws(**({"seed": 1, "epoch": 2, "step": 3, "worker": 0} | where)).of_images(np.array(rows), 5)

    numbers = draw(list(range(1000)))
    torch.testing.assert_close(draw([7, 3], step=99, worker=4), numbers[[7, 3]], rtol=0, atol=0)
    assert not torch.equal(draw([7], epoch=3), numbers[[7]])
    assert not torch.equal(draw([7], seed=2), numbers[[7]])
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    assert float(numbers.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(torch.corrcoef(numbers.T).fill_diagonal_(0).abs().max()) < 0.15


def test_a_frozen_part_keeps_weights_and_batch_statistics_and_its_rate_is_its_own() -> None:
    task = Blobs()
    head, body = list(task.head.parameters()), list(task.body.parameters())
    task._stretches = [Stretch(epochs=1, groups=[(head, 1.0)]), Stretch(epochs=2, groups=[(head, 1.0), (body, 0.1)])]
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    after_first: dict[str, Tensor] = {}

    def look(kind: str, figures: Report) -> None:
        if kind == "epoch" and not after_first:
            after_first.update({name: tensor.clone() for name, tensor in task.model.state_dict().items()})

    trainer = Trainer(task, CONFIG)
    trainer.train(look)
    changed = {name for name in before if not torch.equal(before[name], after_first[name])}
    assert changed == {"1.1.weight", "1.1.bias"}
    assert not torch.equal(task.model.state_dict()["0.0.weight"], before["0.0.weight"])
    assert not torch.equal(task.model.state_dict()["0.1.running_mean"], before["0.1.running_mean"])
    rates = {group["lr"] for group in trainer.optimizer.param_groups}
    assert max(rates) == pytest.approx(10 * min(rates))


def test_it_stops_when_validation_gets_no_better_and_keeps_the_best() -> None:
    task = Blobs()
    task.validation_losses = [0.5, 0.4, 0.6, 0.7, 0.1, 0.1]
    trainer = Trainer(task, CONFIG.model_copy(update={"epochs": 6, "patience": 2}))
    best: list[Tensor] = []

    def look(kind: str, figures: Report) -> None:
        if kind == "epoch" and figures["epoch"] == 2:
            best.append(trainer.averaged.module.state_dict()["1.1.weight"].clone())

    trainer.train(look)
    assert len(trainer.history) == 4
    assert torch.equal(trainer.finished().state_dict()["1.1.weight"], best[0])


def test_a_loss_that_is_no_number_ends_it() -> None:
    task = Blobs()
    task.targets[:] = math.nan
    with pytest.raises(RunError, match="learning-rate"):
        Trainer(task, CONFIG).train(ignore)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="shared out evenly to 3"):
        Trainer(Blobs(), CONFIG, workers=Workers(0, 3))
    with pytest.raises(ConfigError, match="there must be more"):
        Trainer(Blobs(num_images=1), CONFIG.model_copy(update={"batch_size": 4}), workers=Workers(0, 2))
    state = Trainer(Blobs(), CONFIG).state()
    with pytest.raises(ConfigError, match="epochs 3, not 4"):
        Trainer(Blobs(), CONFIG.model_copy(update={"epochs": 4})).restore(state)
    other = Blobs()
    other.model = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="does not fit"):
        Trainer(other, CONFIG).restore(state)


TWO = """
import sys, json, torch, torch.distributed as dist
sys.path.insert(0, "tests/unit")
from galaxray.training.loop import Trainer
from galaxray.training.workers import Workers
from test_training_loop import CONFIG, Smooth, ignore
rank, count, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
if count > 1:
    dist.init_process_group("gloo", init_method=f"file://{path}/meet", rank=rank, world_size=count)
trainer = Trainer(Smooth(), CONFIG, workers=Workers.of_process_group())
trainer.train(ignore)
if rank == 0:
    print(json.dumps([trainer.history, trainer.finished().state_dict()["1.1.weight"].tolist()]))
if count > 1:
    dist.destroy_process_group()
"""


class Smooth(Blobs):
    """The same without what is each worker's own: batch statistics, dropout and noise."""

    def __init__(self) -> None:
        super().__init__()
        self.body[1] = nn.GroupNorm(1, 4)
        self.head[0] = nn.Identity()

    def batch(self, rows: np.ndarray, draws: StepDraws) -> tuple[Tensor, ...]:
        return self.images[rows] + 0.01 * draws.of_images(rows, 1)[:, :, None, None], self.targets[rows]


@pytest.mark.slow
def test_two_workers_learn_what_one_learns(tmp_path: Path) -> None:
    import subprocess

    def train(count: int) -> list:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", TWO, str(rank), str(count), str(tmp_path)], stdout=subprocess.PIPE, text=True
            )
            for rank in range(count)
        ]
        said = [process.communicate(timeout=100)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * count
        return json.loads(said[0])

    alone, together = train(1), train(2)
    for one, two in zip(alone[0], together[0], strict=True):
        assert two["training_loss"] == pytest.approx(one["training_loss"], rel=1e-4)
        assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-4)
    np.testing.assert_allclose(together[1], alone[1], rtol=1e-3)
