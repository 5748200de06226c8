"""Learning rates: which parameter learns at which rate, and when it changes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from honne.batch import Batch, Labels, Prediction
from honne.data.transforms import Normalise
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.methods.base import Method
from honne.schedules import OptimOptions, Schedule, optimizer, rate_at, schedule

PER_EPOCH = 5


def started(options: OptimOptions, epochs: int) -> tuple[Optimizer, Schedule]:
    module = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    chosen = optimizer(module, options)
    return chosen, schedule(chosen, options, epochs * PER_EPOCH, epochs)


def epoch_of(chosen: Optimizer, steps: Schedule) -> list[dict[bool, float]]:
    """Rate in (True) and outside (False) the backbone at every step of the next epoch."""
    found = []
    for _ in range(PER_EPOCH):
        found.append({group["in_backbone"]: group["lr"] for group in chosen.param_groups})
        chosen.step()
        steps.step()
    return found


def rates(options: OptimOptions, epochs: int) -> list[dict[bool, float]]:
    """The same at every step of a run."""
    chosen, steps = started(options, epochs)
    return [step for _ in range(epochs) for step in epoch_of(chosen, steps)]


def by_epoch(options: OptimOptions, epochs: int, losses: Sequence[float] = ()) -> list[float]:
    """Rate of the backbone in every epoch, in which it must not change; `losses` are observed after the first ones."""
    chosen, steps = started(options, epochs)
    found = []
    for epoch in range(epochs):
        (rate,) = {step[True] for step in epoch_of(chosen, steps)}
        found.append(rate)
        if epoch < len(losses):
            steps.observe(losses[epoch])
    return found


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"schedule": "constant", "warmup_epochs": 4}, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ({"schedule": "linear", "warmup": 0}, [1 - epoch / 9 for epoch in range(1, 9)]),
        ({"schedule": "linear", "warmup": 0, "hold_epochs": 5}, [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        ({"schedule": "linear", "warmup_epochs": 2, "hold_epochs": 3}, [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        ({"schedule": "linear", "warmup_epochs": 2, "hold_epochs": 9}, [0.5, 1, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "step", "warmup_epochs": 2, "step_epochs": 3}, [0.5, 1, 1, 1, 1, 0.1, 0.1, 0.1]),
        ({"schedule": "cosine", "warmup_epochs": 2, "cosine_epochs": 2}, [0.5, 1, 1, 0.5, 0, 0.5, 1, 0.5]),
    ],
)
def test_rates_that_change_between_epochs(options: dict[str, Any], wanted: list[float]) -> None:
    assert by_epoch(OptimOptions(lr=1, **options), 8) == pytest.approx(wanted)


def test_the_whole_half_wave_follows_the_warm_up_epochs_step_by_step() -> None:
    found = [step[True] for step in rates(OptimOptions(lr=1, warmup_epochs=2), 4)]
    assert found[:10] == [0.5] * 5 + [1.0] * 5
    assert found[10:] == sorted(found[10:], reverse=True)
    assert (found[10], found[15]) == pytest.approx((1, 0.5))


FLAT = [2.0, 1.0] + [0.995] * 6  # not 1 % below 1
AFTER_THREE: dict[str, Any] = {"schedule": "plateau", "plateau_patience": 2, "step_factor": 0.5}


@pytest.mark.parametrize(
    ("options", "losses", "wanted"),
    [
        ({"warmup": 0}, FLAT, [1, 1, 1, 1, 1, 0.5, 0.5, 0.5]),
        ({"warmup": 0}, [0.98**epoch for epoch in range(8)], [1] * 8),
        ({"warmup": 0, "step_floor": 0.4}, [0.0] * 8, [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.4]),
        ({"warmup": 0, "lr": 1.5e-8}, [0.0] * 8, [1.5e-8] * 8),  # 0.75e-8 less is no change
        ({"warmup_epochs": 4}, [0.0] * 8, [0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0.5]),  # waits from epoch 4 on
    ],
)
def test_a_plateau_lowers_the_rate(options: dict[str, Any], losses: list[float], wanted: list[float]) -> None:
    found = by_epoch(OptimOptions(**{"lr": 1, **AFTER_THREE, **options}), 8, losses)
    assert found == pytest.approx(wanted, rel=1e-9)


def test_a_resumed_plateau_goes_on_as_if_never_interrupted() -> None:
    options = OptimOptions(lr=1, head_lr=4, warmup=0, **AFTER_THREE)
    chosen, steps = started(options, 9)
    for _ in range(6):  # lowered after the fourth epoch, waiting again since
        epoch_of(chosen, steps)
        steps.observe(1.0)
    kept = io.BytesIO()
    torch.save([chosen.state_dict(), steps.state_dict()], kept)
    kept.seek(0)
    optimiser_state, schedule_state = torch.load(kept, weights_only=True)
    again = started(options, 9)
    again[0].load_state_dict(optimiser_state)
    again[1].load_state_dict(schedule_state)
    for run in ((chosen, steps), again):
        found = []
        for _ in range(3):
            found.append(epoch_of(*run)[-1])
            run[1].observe(1.0)
        assert found == [{True: 0.5, False: 2.0}, {True: 0.25, False: 1.0}, {True: 0.25, False: 1.0}]


@pytest.mark.parametrize("optimisers", [1, 3])
def test_validation_tells_every_schedule_its_loss(optimisers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    options = OptimOptions(lr=1, warmup=0, **AFTER_THREE)
    schema = LabelSchema(expressions=("a", "b"))
    made = Method(nn.Linear(2, 2), schema, Normalise([0.5] * 3, [0.5] * 3), options)
    running = [started(options, 9) for _ in range(optimisers)]
    configs = [SimpleNamespace(scheduler=steps) for _, steps in running]
    monkeypatch.setattr(Method, "trainer", SimpleNamespace(world_size=1, lr_scheduler_configs=configs))
    monkeypatch.setattr(made, "log_dict", lambda *_, **__: None)
    labels = Labels(expression=torch.tensor([0, 1]))
    for _ in range(4):
        made._seen = [(Prediction(expression=torch.zeros(2, 2)), Batch(labels=labels, index=torch.arange(2)))]
        made.on_validation_epoch_end()
    assert [epoch_of(*each)[0][True] for each in running] == [0.5] * optimisers
    monkeypatch.setattr(made, "scores", lambda *_: {"score": torch.tensor(1.0)})
    made._seen = [(Prediction(expression=torch.zeros(2, 2)), Batch(labels=labels, index=torch.arange(2)))]
    with pytest.raises(HonneError, match="plateau watches a validation loss"):
        made.on_validation_epoch_end()


def test_beta1_is_that_of_adam() -> None:
    kinds: tuple[Literal["adam", "adamw"], ...] = ("adam", "adamw")
    for kind in kinds:
        chosen = optimizer(nn.Linear(2, 2), OptimOptions(kind, beta1=0.5))
        assert {group["betas"] for group in chosen.param_groups} == {(0.5, 0.999)}


def test_a_table_holds_until_its_epoch_and_the_last_entry_for_ever() -> None:
    table, head = [(1, 1e-2), (3, 1e-3), (4, 5e-3)], [(2, 1.0), (4, 0.1)]
    found = rates(OptimOptions(schedule="table", table=table, head_table=head, warmup=0), epochs=6)
    body = [1e-2, 1e-3, 1e-3, 5e-3, 5e-3, 5e-3]  # rates may rise again, as the published ones do
    top = [1.0, 1.0, 0.1, 0.1, 0.1, 0.1]
    for epoch in range(6):
        for step in found[5 * epoch : 5 * epoch + 5]:
            assert step == pytest.approx({True: body[epoch], False: top[epoch]})
    assert rate_at(table, 99) == 5e-3


def test_one_table_serves_both_and_warms_up() -> None:
    found = rates(OptimOptions(schedule="table", table=[(2, 0.5), (9, 0.05)], warmup=0.25), epochs=4)
    assert all(step[True] == step[False] for step in found)
    assert [step[True] for step in found[:6]] == pytest.approx([0.5 * (0.04 + 0.96 * step / 5) for step in range(6)])
    assert [found[9][True], found[10][True]] == pytest.approx([0.5, 0.05])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"schedule": "table"}, "go together"),
        ({"table": [(1, 0.1)]}, "go together"),
        ({"schedule": "cosine", "hold_epochs": 3}, "optim.hold_epochs belongs to optim.schedule linear"),
        ({"schedule": "linear", "cosine_epochs": 3}, "optim.cosine_epochs belongs to optim.schedule cosine"),
        ({"schedule": "table", "table": [(3, 0.1), (1, 0.2)]}, r"optim.table: its epochs \[3, 1\] do not rise"),
        ({"schedule": "table", "table": [(1, 0.1)], "head_table": [(3, 0.1), (1, 0.2)]}, "optim.head_table"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], text: str) -> None:
    with pytest.raises(WrongCall, match=text):
        OptimOptions(**options)  # type: ignore[arg-type]


def test_everything_decays_where_asked() -> None:
    module = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    for decayed, names in (("weights", {"weight"}), ("all", {"weight", "bias"})):
        groups = optimizer(module, OptimOptions(weight_decay=0.5, decayed=decayed)).param_groups  # type: ignore[arg-type]
        decaying = {id(value) for group in groups if group["weight_decay"] for value in group["params"]}
        wanted = {id(value) for name, value in module.named_parameters() if name.split(".")[-1] in names}
        assert decaying == wanted
