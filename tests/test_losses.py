"""Losses against plain PyTorch on complete labels, and that unlabelled entries change nothing."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from honne.batch import NOT_LABELLED, Labels
from honne.losses import action_unit_loss, concordance, expression_loss, multi_target_loss, valence_arousal_loss


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_expression_loss_of_hard_labels_is_cross_entropy(random: torch.Generator) -> None:
    logits, truth = torch.randn(9, 5, generator=random), torch.arange(9) % 5
    target = Labels(expression=truth).expression_target(5)
    assert target is not None
    weights = torch.rand(5, generator=random) + 0.1
    assert torch.isclose(expression_loss(logits, target), F.cross_entropy(logits, truth))
    assert torch.isclose(expression_loss(logits, target, weights), F.cross_entropy(logits, truth, weights))
    assert torch.isclose(
        expression_loss(logits, target, label_smoothing=0.2), F.cross_entropy(logits, truth, label_smoothing=0.2)
    )


def test_votes_take_precedence_and_rows_without_any_do_not_count(random: torch.Generator) -> None:
    logits = torch.randn(4, 3, generator=random, requires_grad=True)
    votes = torch.tensor([[0.5, 0.5, 0.0], [torch.nan] * 3, [torch.nan] * 3, [0.0, 0.1, 0.9]])
    labels = Labels(expression=torch.tensor([2, 1, NOT_LABELLED, NOT_LABELLED]), distribution=votes)
    target = labels.expression_target(3)
    assert target is not None
    expected = torch.stack([votes[0], torch.tensor([0.0, 1.0, 0.0]), votes[3]])
    assert torch.isclose(expression_loss(logits, target), F.cross_entropy(logits[[0, 1, 3]], expected))
    expression_loss(logits, target).backward()
    assert logits.grad is not None
    assert logits.grad[2].abs().sum() == 0


def test_a_batch_without_labels_costs_nothing_and_keeps_gradients_finite(random: torch.Generator) -> None:
    nothing = torch.full((4, 3), torch.nan)
    for loss in (expression_loss, action_unit_loss):
        logits = torch.randn(4, 3, generator=random, requires_grad=True)
        value = loss(logits, nothing)
        value.backward()
        assert value == 0
        assert logits.grad is not None
        assert torch.equal(logits.grad, torch.zeros(4, 3))
    prediction = torch.randn(4, 2, generator=random, requires_grad=True)
    valence_arousal_loss(prediction, nothing[:, :2]).backward()
    assert prediction.grad is not None
    assert torch.equal(prediction.grad, torch.zeros(4, 2))


def test_multi_target_loss_takes_the_likeliest_accepted_class() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
    target = torch.tensor([[0.001, 1.0, 1.0], [1.0, 0.001, 0.001], [torch.nan] * 3])
    expected = -(logits[0].log_softmax(0)[2] + logits[1].log_softmax(0)[0]) / 2
    assert torch.isclose(multi_target_loss(logits, target), expected)


def test_action_unit_loss_is_the_mean_over_coded_entries(random: torch.Generator) -> None:
    logits, target = torch.randn(6, 4, generator=random), (torch.rand(6, 4, generator=random) > 0.5).float()
    coded = torch.rand(6, 4, generator=random) > 0.3
    expected = F.binary_cross_entropy_with_logits(logits[coded], target[coded])
    assert torch.isclose(action_unit_loss(logits, target.masked_fill(~coded, torch.nan)), expected)


def test_concordance_of_known_series() -> None:
    line = torch.linspace(-1, 1, 11)[:, None]
    shifted = 2 * 0.4 / (0.4 + 0.4 + 0.25)  # var of the line is 0.4, shift 0.5
    cases = torch.cat([line, -line, line + 0.5, torch.zeros_like(line)], 1)
    assert torch.allclose(concordance(cases, line.expand(-1, 4)), torch.tensor([1.0, -1.0, shifted, 0.0]), atol=1e-6)
    gaps = line.clone()
    gaps[::2] = torch.nan
    assert torch.isclose(concordance(line + torch.isnan(gaps), gaps)[0], torch.tensor(1.0))
