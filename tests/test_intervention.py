"""The interventional head: every context in one batch, its averages, its maps, and what it refuses."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.batch import Batch
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.networks.face import FaceNetwork
from honne.networks.intervention import Decoder, Discriminator, Interventional, initialise, mean_of_convolution

CHANNELS, STRATA, CLASSES = 6, 4, 3


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decoder(blocks: int = 2) -> Decoder:
    torch.manual_seed(0)
    made = Decoder(CHANNELS, blocks)
    initialise(made, gain=0.3)
    return made


def head(side: tuple[int, int] = (3, 4), strata: int = STRATA, **options: Any) -> Interventional:
    torch.manual_seed(0)
    names = [f"stratum {number}" for number in range(strata)]
    made = Interventional(5, CLASSES, strata=names, side=side, channels=CHANNELS, decoder_blocks=2, **options)
    initialise(made, gain=0.3)
    nn.init.normal_(made.classifier.bias)
    made.prototypes.copy_(drawn(strata, CHANNELS, *side, seed=2))
    return made


# --- every context in one batch ----------------------------------------------------------------------------------


@pytest.mark.parametrize("faces", [1, 5])
@pytest.mark.parametrize("training", [True, False])
def test_strata_in_one_batch_are_strata_one_after_the_other(training: bool, faces: int) -> None:
    together, apart = decoder().train(training), decoder().train(training)
    emotion, prototypes = drawn(faces, CHANNELS, 3, 4).requires_grad_(), drawn(STRATA, CHANNELS, 3, 4, seed=2)
    for _ in range(2):  # the second time with statistics that have moved
        wanted = torch.stack([apart(emotion, one.expand(faces, -1, -1, -1)) for one in prototypes], 1).flatten(0, 1)
        found = together.strata(emotion, prototypes)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=5e-5)
    for name, value in apart.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], value, msg=name)
    weights = drawn(*wanted.shape, seed=3)
    gradients = [torch.autograd.grad((maps * weights).sum(), emotion)[0] for maps in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_pooled_strata_are_the_means_of_their_maps(training: bool) -> None:
    for blocks in (1, 3):
        full, pooled = (decoder(blocks).train(training) for _ in range(2))
        inputs = drawn(2, CHANNELS, 2, 3), drawn(STRATA, CHANNELS, 2, 3, seed=2)
        torch.testing.assert_close(pooled.strata(*inputs, pooled=True), full.strata(*inputs).mean((2, 3)))
        for name, value in full.state_dict().items():
            torch.testing.assert_close(pooled.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("side", [(2, 2), (3, 5), (7, 7), (1, 4)])
def test_mean_of_a_convolution_from_nine_sums(side: tuple[int, int]) -> None:
    maps, weight = drawn(3, CHANNELS, *side), drawn(4, CHANNELS, 3, 3, seed=2)
    torch.testing.assert_close(
        mean_of_convolution(maps, weight), F.conv2d(maps, weight, padding=1).mean((2, 3)), rtol=1e-5, atol=1e-5
    )


def test_what_is_kept_of_the_prototypes_follows_every_change() -> None:
    made, maps = head().eval(), drawn(2, 5, 3, 4)

    def now() -> Tensor:
        with torch.no_grad():
            first, again = made(maps), made(maps)
        assert torch.equal(first, again)
        torch.testing.assert_close(made(maps), again)  # with gradients nothing is kept
        return again

    seen = [now()]
    made.prototypes.add_(1)
    seen.append(now())
    made.load_state_dict({name: value * 0.5 for name, value in made.state_dict().items()})
    seen.append(now())
    made.decoder.blocks[0].conv1.weight.data.mul_(2)  # as a fused optimiser, without a trace
    made.train()
    made.eval()
    seen.append(now())
    copied = deepcopy(made)
    assert copied.decoder._kept is None
    with torch.inference_mode():
        torch.testing.assert_close(copied(maps), seen[-1])
    made = made.double()
    maps = maps.double()
    torch.testing.assert_close(now().float(), seen[-1])
    assert all(not torch.equal(one, other) for one, other in pairwise(seen))


def test_discriminators_of_any_map_and_number() -> None:
    for side in ((2, 2), (3, 3), (4, 7), (7, 7), (14, 14)):
        assert Discriminator(CHANNELS, 10, 4, side)(drawn(1, CHANNELS, *side)).shape == (1, 10)


# --- averages ----------------------------------------------------------------------------------------------------


def test_logits_are_averaged_under_the_prior() -> None:
    maps = drawn(2, 5, 3, 4).double()
    shares = [0.1, 0.2, 0.3, 0.4]
    uniform, given = head().eval().double(), head(prior=[4 * share for share in shares]).eval().double()
    logits = given.intervene(given.encode(maps))
    assert logits.shape == (2, STRATA, CLASSES)
    for k in range(STRATA):
        alone = given.decoder(given.encode(maps), given.prototypes[k].expand(2, -1, -1, -1)).mean((2, 3))
        torch.testing.assert_close(logits[:, k], given.classifier(alone))
    torch.testing.assert_close(uniform(maps), logits.mean(1))
    torch.testing.assert_close(given(maps), sum(share * logits[:, k] for k, share in enumerate(shares)))


def test_probabilities_are_averaged_under_the_prior_even_where_a_share_is_0() -> None:
    maps, shares = drawn(2, 5, 3, 4), [0.5, 0.0, 0.25, 0.25]
    made = head(prior=shares, average="probabilities").eval()
    chances = made.intervene(made.encode(maps)).softmax(2)
    wanted = sum(share * chances[:, k] for k, share in enumerate(shares))
    found = made(maps)
    torch.testing.assert_close(found.exp(), wanted)
    torch.testing.assert_close(found.softmax(1), wanted)
    found.sum().backward()
    assert all(entry.grad is None or entry.grad.isfinite().all() for entry in made.parameters())


@pytest.mark.parametrize("prior", [None, [0.7, 0.1, 0.1, 0.1]])
def test_class_maps_pool_to_the_logits_without_the_bias(prior: list[float] | None) -> None:
    made, maps = head(prior=prior).eval(), drawn(2, 5, 3, 4)
    shown = made.class_maps(maps)
    assert shown.shape == (2, CLASSES, 3, 4)
    torch.testing.assert_close(shown.mean((2, 3)) + made.classifier.bias, made(maps), rtol=1e-4, atol=1e-5)


# --- as a head of a network --------------------------------------------------------------------------------------


def network(**options: Any) -> FaceNetwork:
    torch.manual_seed(0)
    body = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_width": 4}
    named = {"strata": ["a", "b"], "side": [2, 2], "channels": CHANNELS} | options
    return FaceNetwork(LabelSchema(("calm", "glad")), "face_resnet", body, head="interventional", head_options=named)


def test_a_network_says_what_it_would_in_every_stratum() -> None:
    made, images = network().eval(), drawn(3, 3, 32, 32)
    own = made.expression
    assert isinstance(own, Interventional)
    own.prototypes.copy_(drawn(2, CHANNELS, 2, 2, seed=2))
    prediction = made(Batch(images=images))
    assert prediction.strata.shape == (3, 2, 2)
    torch.testing.assert_close(prediction.expression, prediction.strata.mean(1))
    torch.testing.assert_close(prediction.features, own.encode(made.maps(images)).mean((2, 3)))
    torch.testing.assert_close(made.embedding(images), made.backbone(images))
    alone = made(Batch(images=images[:1]))
    torch.testing.assert_close(alone.strata, prediction.strata[:1])
    again = deepcopy(made)
    again.load_state_dict(made.state_dict())
    torch.testing.assert_close(again(Batch(images=images)).expression, prediction.expression)


def test_what_it_cannot_work_with_is_one_sentence() -> None:
    for options, words in (
        ({"strata": ["a"]}, "strata a with prior"),
        ({"strata": []}, "strata none"),
        ({"prior": [1.0]}, "one share from 0 for each"),
        ({"prior": [1.0, -1.0]}, "one share from 0 for each"),
        ({"prior": [0.0, 0.0]}, "not all 0"),
        ({"side": [1, 1]}, "1 x 1 positions"),
    ):
        with pytest.raises(WrongCall) as raised:
            network(**options)
        assert words in str(raised.value) + raised.value.hint
    with pytest.raises(HonneError, match="has 3 x 3 positions, the prototypes of the strata have 2 x 2"):
        network()(Batch(images=drawn(1, 3, 48, 48)))
