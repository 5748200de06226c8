"""Class activation maps: identities, loops written out, backbones of every layout, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.batch import Batch
from honne.errors import HonneError, WrongCall
from honne.explain.cams import GRADIENT_MAPS, gradcam_pp, normalise
from honne.explain.maps import KINDS, Maps, class_activation_map, class_token_attention, forward, gradients, on_image
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig
from honne.networks.face import FaceNetwork

SIDE, CLASSES, ROWS = 64, 4, 3
TARGET = torch.tensor([2, 0, 2])
IMAGES = torch.randint(0, 256, (ROWS, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
BACKBONES: dict[str, dict[str, Any]] = {
    "face_resnet": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_width": 4},
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [4, 4, 8, 8]},
    "swin_tiny_patch4_window7_224": {
        "img_size": SIDE,
        "embed_dim": 4,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 1, 1],
        "window_size": 2,
    },
    "vit_tiny_patch16_224": {"img_size": SIDE, "embed_dim": 12, "depth": 3, "num_heads": 2, "global_pool": "avg"},
}


def model(backbone: str = "face_resnet", expressions: int = CLASSES, head: str = "linear", **changes: Any) -> Model:
    torch.manual_seed(0)
    schema = LabelSchema(tuple(f"class {i}" for i in range(expressions)), () if expressions else (1,))
    network = FaceNetwork(schema, backbone, BACKBONES[backbone] | changes, head=head, regions=True)  # type: ignore[arg-type]
    for module in network.modules():
        if hasattr(module, "gamma"):  # ConvNeXt's layer scale of 1e-6 would leave every map the same
            nn.init.ones_(module.gamma)
        if isinstance(module, nn.LayerNorm):  # fresh ones leave `attention`, a mean over channels, as mere rounding
            nn.init.uniform_(module.weight, 0.5, 1.5)
    config = ModelConfig("tiny", "erm", {}, schema, [0.5] * 3, [0.25] * 3, {"size": SIDE}, temperature=2.0)
    return Model(config, network)


def close(found: Maps, wanted: Maps) -> None:
    torch.testing.assert_close(found.maps, wanted.maps, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.probabilities, wanted.probabilities)
    assert torch.equal(found.target, wanted.target)
    assert found.attention.keys() == wanted.attention.keys()
    for name, attention in wanted.attention.items():
        torch.testing.assert_close(found.attention[name], attention)


def test_identities_of_average_pooling() -> None:
    """With a constant gradient w / (h w), GradCAM is ReLU(CAM) / (h w) and LayerCAM counts positive weights only."""
    made = model()
    with torch.no_grad():
        made.network.last_map.register_forward_hook(lambda module, inputs, output: output.relu())
        pixels = made.normalise(IMAGES)
        last = made.network.last_map(made.network.backbone.forward_features(pixels))
    weight = made.network.expression.weight[TARGET]  # type: ignore[union-attr, index]
    output, logits = forward(made.network, pixels, "last")
    derivative = gradients(made.network, output, logits, TARGET)
    raw = {kind: function(output.detach(), derivative) for kind, function in GRADIENT_MAPS.items()}
    pixel_count = last.shape[2] * last.shape[3]
    cam = torch.einsum("bd,bdhw->bhw", weight, last)
    torch.testing.assert_close(raw["cam"], cam)
    torch.testing.assert_close(raw["gradcam"], cam.relu() / pixel_count)
    torch.testing.assert_close(raw["xgradcam"], cam.relu() / pixel_count)
    positive = torch.einsum("bd,bdhw->bhw", weight.relu(), last) / pixel_count
    torch.testing.assert_close(raw["layercam"], positive)
    assert (cam < 0).any()
    torch.testing.assert_close(class_activation_map(made, IMAGES, TARGET, "cam").maps, normalise(cam))


def test_gradcam_plus_plus_as_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(3)
    activations = torch.rand(2, 3, 4, 5, generator=generator)
    g = torch.randn(2, 3, 4, 5, generator=generator) * (torch.rand(2, 3, 4, 5, generator=generator) > 0.2)
    for b in range(2):
        wanted = torch.zeros(4, 5)
        for d in range(3):
            third = float((activations[b, d] * g[b, d] ** 3).sum())
            weight = 0.0
            for x in g[b, d].flatten().tolist():
                alpha = x**2 / (2 * x**2 + third) if x else 0.0
                weight += alpha * max(x, 0.0)
            wanted += weight * activations[b, d]
        torch.testing.assert_close(gradcam_pp(activations, g)[b], wanted.relu())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_batch_is_its_images_one_at_a_time(backbone: str) -> None:
    made = model(backbone)
    slow = {"sscam:released", "iscam:released"} | ({"sscam", "iscam"} if backbone != "face_resnet" else set())
    for kind in sorted(set(KINDS) - {"tscam"} - slow):
        for layer in ("2", "last") if kind in GRADIENT_MAPS else ("last",):
            whole = class_activation_map(made, IMAGES, TARGET, kind, layer, attended=("1", layer))
            assert whole.maps.min() >= 0
            assert whole.maps.max() == 1
            assert torch.equal(whole.target, TARGET)
            assert not any(t.requires_grad for t in (whole.maps, whole.probabilities, *whole.attention.values()))
            for row in range(ROWS):
                only = slice(row, row + 1)
                alone = class_activation_map(made, IMAGES[only], TARGET[only], kind, layer, attended=("1", layer))
                part = Maps(
                    whole.maps[only],
                    whole.target[only],
                    whole.probabilities[only],
                    {name: each[only] for name, each in whole.attention.items()},
                )
                close(alone, part)


def test_gradients_reach_a_layer_as_a_full_backward_pass_does() -> None:
    made = model("swin_tiny_patch4_window7_224")
    network: Any = made.network
    seen: list[Tensor] = []
    stage = network.backbone.layers[1]
    handle = stage.register_forward_hook(lambda module, inputs, output: seen.append(output))
    pixels = made.normalise(IMAGES).requires_grad_()
    logits = network(Batch(images=pixels)).expression
    handle.remove()
    one_by_one = [
        torch.autograd.grad(logits[row, TARGET[row]], seen[0], retain_graph=True)[0][row] for row in range(ROWS)
    ]
    wanted = torch.stack(one_by_one).permute(0, 3, 1, 2)
    found = gradients(network, *forward(network, made.normalise(IMAGES), "2"), TARGET)
    torch.testing.assert_close(found, wanted)


def test_the_class_predicted_and_calibrated_probabilities() -> None:
    made = model()
    prediction = made.forward_batch(Batch(images=IMAGES)).expression
    assert prediction is not None
    with torch.inference_mode():  # callers may be in it
        found = class_activation_map(made, IMAGES.clone())
    torch.testing.assert_close(found.probabilities, prediction.softmax(1))
    assert torch.equal(found.target, prediction.argmax(1))
    close(class_activation_map(made, IMAGES, prediction.argmax(1)), found)


def test_chunks_of_masks_change_nothing() -> None:
    made = model()
    for kind, chunk in (("scorecam", 1), ("scorecam", 1000), ("iscam", 5)):
        found = class_activation_map(made, IMAGES, TARGET, kind, chunk=chunk)
        close(found, class_activation_map(made, IMAGES, TARGET, kind))


def test_scorecam_as_a_plain_loop() -> None:
    made = model()
    pixels = made.normalise(IMAGES)
    with torch.no_grad():
        last = made.network.last_map(made.network.backbone.forward_features(pixels))
        for row in range(ROWS):
            wanted = torch.zeros(last.shape[2:])
            for channel in last[row]:
                mask = F.interpolate(normalise(channel)[None, None], SIDE, mode="bilinear", align_corners=False)
                score = made.network(Batch(images=pixels[row : row + 1] * mask)).expression.softmax(1)
                wanted += score[0, TARGET[row]] * channel
            found = class_activation_map(made, IMAGES, TARGET, "scorecam").maps[row]
            torch.testing.assert_close(found, normalise(wanted.relu()), rtol=1e-3, atol=1e-4)


def test_released_variants_differ_where_they_should() -> None:
    made = model()
    for kind in ("gradcam++", "scorecam"):
        right = class_activation_map(made, IMAGES, TARGET, kind)
        released = class_activation_map(made, IMAGES, TARGET, f"{kind}:released")
        assert not torch.equal(right.maps, released.maps)


def test_attention_of_the_class_token_times_the_class_map() -> None:
    made = model("vit_tiny_patch16_224", head="tscam")
    network: Any = made.network
    attentions = [block.attn for block in network.backbone.blocks]
    before = [each.fused_attn for each in attentions]
    inputs: list[Tensor] = []
    hooks = [each.register_forward_hook(lambda module, args, output: inputs.append(args[0])) for each in attentions]
    with torch.no_grad():
        found = class_activation_map(made, IMAGES, TARGET, "tscam")
        maps = class_activation_map(made, IMAGES, TARGET, "class_map")
        for hook in hooks:
            hook.remove()
        wanted: Tensor | float = 0.0
        for module, tokens in zip(attentions, inputs[: len(attentions)], strict=True):
            q, k, _ = module.qkv(tokens).reshape(ROWS, -1, 3, 2, 6).permute(2, 0, 3, 1, 4)
            wanted = wanted + ((q * module.scale) @ k.transpose(2, 3)).softmax(3).mean(1)[:, 0, 1:]
        last = network.last_map(network.backbone.forward_features(made.normalise(IMAGES)))[:, 1:]
        semantic = network.class_maps(last.transpose(1, 2).reshape(ROWS, 12, 4, 4))[torch.arange(ROWS), TARGET]
    assert isinstance(wanted, Tensor)
    torch.testing.assert_close(found.maps, normalise(wanted.reshape(ROWS, 4, 4) * semantic))
    torch.testing.assert_close(maps.maps, normalise(semantic))
    assert [each.fused_attn for each in attentions] == before
    assert not any(each.attn_drop._forward_hooks for each in attentions)


def test_normalised_maps_are_finite() -> None:
    maps = torch.stack(
        [torch.full((2, 2), 3.0), torch.full((2, 2), torch.nan), torch.tensor([[-1.0, 0.0], [1.0, 3.0]])]
    )
    assert normalise(maps).tolist() == [[[0, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 0.25], [0.5, 1]]]


def test_maps_at_the_size_of_the_image_stay_in_their_range() -> None:
    maps = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    low, high = maps.amin((1, 2)), maps.amax((1, 2))
    for large in (on_image(maps, (30, 20), "cam"), on_image(maps - 0.5, (30, 20), "attention") + 0.5):
        assert large.shape == (2, 30, 20)
        assert (large.amin((1, 2)) >= low - 1e-6).all()
        assert (large.amax((1, 2)) <= high + 1e-6).all()


def test_what_is_refused() -> None:
    made = model()
    for call, error, said in (
        ({"kind": "gradcan"}, WrongCall, "unknown map 'gradcan'.*\n.*Did you mean gradcam?"),
        ({"layer": "9"}, WrongCall, "no layer '9'"),
        ({"target": torch.tensor([0, 1, CLASSES])}, WrongCall, f"target {CLASSES} of image 2 is no class"),
        ({"target": torch.tensor([0, -1, 1])}, WrongCall, "target -1 of image 1 is no class"),
        ({"target": torch.tensor([0])}, WrongCall, r"shape \(1,\) for 3 images"),
        ({"target": "true"}, WrongCall, "target 'true'"),
        ({"kind": "class_map", "layer": "2"}, WrongCall, "not of layer '2'"),
        ({"kind": "tscam"}, HonneError, "no class token"),
    ):
        with pytest.raises(error, match=said):
            class_activation_map(made, IMAGES, **call)  # type: ignore[arg-type]
    with pytest.raises(HonneError, match="names no expressions"):
        class_activation_map(model(expressions=0), IMAGES)
    reads_its_token = model("vit_tiny_patch16_224", global_pool="token")
    with pytest.raises(HonneError, match="do not depend on the map of this layer"):
        class_activation_map(reads_its_token, IMAGES)
    with pytest.raises(HonneError, match="no class maps"):
        class_activation_map(reads_its_token, IMAGES, kind="class_map")
    assert class_activation_map(reads_its_token, IMAGES, layer="2").maps.max() == 1
    with torch.no_grad():
        next(made.network.parameters()).fill_(torch.nan)
    with pytest.raises(HonneError, match="gives NaN or infinity for image 0"):
        class_activation_map(made, IMAGES)
    with pytest.raises(HonneError), class_token_attention(made.network):
        pass
