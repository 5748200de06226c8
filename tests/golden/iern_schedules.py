"""Learning rates of the three optimisers by epoch, for every policy recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from honne.schedules import OptimOptions, optimizer, schedule

Arrays = dict[str, np.ndarray]
STEPS = 3
"""Of an epoch: the recording has none."""


def options(policy: str, golden: Arrays) -> tuple[OptimOptions, int]:
    """What the name of a policy and the recorded settings say, and epochs of the run."""
    warmup, hold, decay = (int(golden[f"cfg.{name}"]) for name in ("n_epochs_warmup", "n_epochs", "n_epochs_decay"))
    shape = policy.removeprefix("warmup_")
    warmup *= shape != policy
    own: dict[str, dict[str, Any]] = {
        "linear": {"hold_epochs": hold},
        "step": {"step_epochs": int(golden["cfg.lr_decay_iters"])},
        "cosine": {"cosine_epochs": hold},
        "plateau": {"step_factor": 0.2},
    }
    common: dict[str, Any] = {"schedule": shape, "warmup": 0, "warmup_epochs": warmup, "decayed": "all"}
    base, other = float(golden["cfg.base_lr"]), float(golden["cfg.lr"])
    made = OptimOptions("adam", lr=base, head_lr=other, weight_decay=0, **common, **own[shape])
    return made, warmup + hold + decay


def rates(members: list[str], chosen: OptimOptions, epochs: int) -> np.ndarray:
    """Rate of every member of one optimiser at every step of every epoch, with a validation loss that is always 0."""
    module = nn.ModuleDict({name: nn.Linear(2, 2) for name in members})
    learner = optimizer(module, chosen, backbone=("Base",))
    changes = schedule(learner, chosen, epochs * STEPS, epochs)
    found = np.empty((epochs, STEPS, len(members)))
    for epoch in range(epochs):
        for step in range(STEPS):
            now = {group["in_backbone"]: group["lr"] for group in learner.param_groups}
            found[epoch, step] = [now[name == "Base"] for name in members]
            learner.step()
            changes.step()
        if chosen.schedule == "plateau":
            changes.observe(0.0)
    return found


@pytest.mark.golden("iern", "lr_schedules*.npz")
def test_learning_rates(golden: Arrays) -> None:
    """The reconstruction's rate of 0 in the last optimiser is no rate here: it is not among what that one learns."""
    columns = [name.split(".") for name in golden["columns"].tolist()]
    policies = [key.removeprefix("lr.") for key in golden if key.startswith("lr.")]
    assert policies
    for policy in policies:
        chosen, epochs = options(policy, golden)
        wanted = golden[f"lr.{policy}"]
        assert len(wanted) == epochs
        for name in dict.fromkeys(name for name, _ in columns):
            learns = [
                index
                for index, (owner, member) in enumerate(columns)
                if owner == name and (owner, member) != ("Cls", "Recons")
            ]
            found = rates([columns[index][1] for index in learns], chosen, epochs)
            for step in range(STEPS):
                np.testing.assert_allclose(
                    found[:, step], wanted[:, learns], rtol=1e-9, atol=1e-15, err_msg=f"{policy} {name}"
                )
    assert not any(golden[f"lr.{policy}"][:, columns.index(["Cls", "Recons"])].any() for policy in policies)
