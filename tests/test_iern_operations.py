"""What IERN computes, counted: no more than it needs, in training and in prediction, and nothing outdated."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from honne.batch import Batch, Labels
from honne.data.transforms import Normalise
from honne.labels import LabelSchema
from honne.methods.erm import Erm, ErmOptions
from honne.methods.iern import Iern, IernOptions
from honne.methods.strata import Strata
from honne.networks.face import FaceNetwork
from honne.networks.intervention import Decoder
from honne.schedules import OptimOptions

FACES, CLASSES, SIZE, SIDE = 8, 6, 224, 7


class Counted(Iern):
    """IERN of tensors without values: no Trainer, no step of an optimiser, no check that looks at a value."""

    def configure(self) -> None:
        self._trainer = SimpleNamespace(precision="32-true", current_epoch=0)  # type: ignore[assignment]
        self.chosen: Any = self.configure_optimizers()[0]
        for each in self.chosen:
            each.optimizer, each.step = each, lambda: None

    def optimizers(self, *_: Any) -> Any:
        return self.chosen

    def lr_schedulers(self) -> Any:
        return []

    def log_dict(self, *_: Any, **__: Any) -> None: ...

    def require_finite(self, terms: dict[str, Tensor]) -> None: ...

    def _labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.labels.expression is not None
        assert batch.domain is not None
        return batch.labels.expression, batch.domain


def operations(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def method(kind: type[Any], options: Any, head: dict[str, Any] | None = None, **facts: Any) -> Any:
    """A method on a whole ResNet-50, which takes no memory on this device."""
    schema = LabelSchema(tuple(f"class {number}" for number in range(CLASSES)))
    network = FaceNetwork(schema, "resnet50", head="interventional" if head else "linear", head_options=head)
    facts |= {"network": network, "schema": schema, "normalise": Normalise([0.5] * 3, [0.5] * 3)}
    return kind(options, optim=OptimOptions("sgd"), **facts).train()


def iern(strata: int, **options: Any) -> Any:
    names = tuple(f"stratum {number}" for number in range(strata))
    places, pairs = torch.arange(strata), torch.ones(CLASSES, strata)
    head = {"strata": names, "side": [SIDE, SIDE]}
    made = method(Counted, IernOptions(**options), head, strata=Strata(names, places, pairs))
    made.configure()
    return made


def faces(count: int = FACES) -> Batch:
    labels = torch.zeros(count, dtype=torch.long)
    images = torch.zeros(count, 3, SIZE, SIZE, dtype=torch.uint8)
    return Batch(images=images, labels=Labels(expression=labels), domain=labels)


@pytest.fixture(scope="module")
def plain() -> Erm:
    with torch.device("meta"):
        made: Erm = method(Erm, ErmOptions())
    return made


@pytest.mark.parametrize(("strata", "most", "most_predicting"), [(3, 2.05, 1.56), (10, 2.85, 2.36)])
def test_as_many_operations_as_it_needs(plain: Erm, strata: int, most: float, most_predicting: float) -> None:
    with torch.device("meta"):
        cured, batch, one = iern(strata), faces(), faces(1)

    def step() -> None:
        torch.stack(list(plain.train().loss(plain.normalised(batch)).values())).sum().backward()

    assert operations(lambda: cured.training_step(batch, 0)) <= most * operations(step)
    learned = [entry for each in cured.chosen for group in each.param_groups for entry in group["params"]]
    assert all(entry.grad is not None for entry in learned)

    with torch.inference_mode():
        cured.eval().predict(one)
        again, least = operations(lambda: cured.predict(one)), operations(lambda: plain.eval().predict(one))
    assert again <= most_predicting * least


def test_what_prototypes_come_to_is_never_outdated() -> None:
    torch.manual_seed(0)
    decoder, emotion = Decoder(4, 2).eval(), torch.randn(2, 4, 3, 3)
    prototypes = torch.randn(3, 4, 3, 3)

    @torch.inference_mode()
    def agrees() -> bool:
        one_by_one = [decoder(emotion, each.expand_as(emotion)) for each in prototypes]
        return torch.allclose(decoder.strata(emotion, prototypes), torch.stack(one_by_one, 1).flatten(0, 1), atol=1e-5)

    assert agrees()
    prototypes += 1
    assert agrees()
    decoder.load_state_dict({name: value + 0.1 for name, value in decoder.state_dict().items()})
    assert agrees()
    decoder.train()
    decoder.strata(emotion, prototypes).square().mean().backward()
    torch.optim.Adam(decoder.parameters(), 0.1, fused=True).step()
    decoder.eval()
    assert agrees()
    prototypes = prototypes + 1  # others
    prototypes += 1  # changed as often as those before
    assert agrees()
    decoder, emotion, prototypes = decoder.double(), emotion.double(), prototypes.double()
    assert agrees()
    with torch.autocast("cpu", torch.bfloat16):
        assert decoder.float().strata(emotion.float(), prototypes.float()).dtype == torch.bfloat16
