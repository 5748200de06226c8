"""Learning rates: which parameter learns at which rate, and when it changes."""

from __future__ import annotations

import pytest
from torch import nn

from honne.errors import WrongCall
from honne.schedules import OptimOptions, optimizer, rate_at, schedule


def rates(options: OptimOptions, epochs: int, per_epoch: int = 5) -> list[dict[bool, float]]:
    """Rate in (True) and outside (False) the backbone at every step of a run."""
    module = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    chosen = optimizer(module, options)
    steps = schedule(chosen, options, epochs * per_epoch, epochs)
    found = []
    for _ in range(epochs * per_epoch):
        found.append({group["in_backbone"]: group["lr"] for group in chosen.param_groups})
        chosen.step()
        steps.step()
    return found


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
        ({"schedule": "table", "table": [(3, 0.1), (1, 0.2)]}, r"optim.table: its epochs \[3, 1\] do not rise"),
        ({"schedule": "table", "table": [(1, 0.1)], "head_table": [(3, 0.1), (1, 0.2)]}, "optim.head_table"),
    ],
)
def test_tables_that_make_no_sense(options: dict[str, object], text: str) -> None:
    with pytest.raises(WrongCall, match=text):
        OptimOptions(**options)  # type: ignore[arg-type]


def test_everything_decays_where_asked() -> None:
    module = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    for decayed, names in (("weights", {"weight"}), ("all", {"weight", "bias"})):
        groups = optimizer(module, OptimOptions(weight_decay=0.5, decayed=decayed)).param_groups  # type: ignore[arg-type]
        decaying = {id(value) for group in groups if group["weight_decay"] for value in group["params"]}
        wanted = {id(value) for name, value in module.named_parameters() if name.split(".")[-1] in names}
        assert decaying == wanted
