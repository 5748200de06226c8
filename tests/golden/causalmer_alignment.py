"""The learned alignment against a recording of the original code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from causalmer_mult import below
from torch.testing import assert_close

from honne.networks.fusion.alignment import CTCAlignment


@pytest.mark.golden("causalmer", "ctc_module_tiny.npz")
def test_alignment_by_ctc(golden: Mapping[str, np.ndarray]) -> None:
    x, expected = torch.from_numpy(golden["x"]), torch.from_numpy(golden["aligned"])
    module = CTCAlignment(x.shape[2], expected.shape[1])
    state = below(golden, "sd/")
    module.load_state_dict({f"positions.{key.partition('.')[2]}": value for key, value in state.items()})
    aligned, scores = module(x)
    assert_close(aligned, expected, atol=1e-5, rtol=1e-5)
    assert_close(scores, torch.from_numpy(golden["position_logits"]), atol=1e-5, rtol=1e-5)
    assert module.loss(scores).isfinite()
