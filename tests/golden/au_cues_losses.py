"""AU cues against recordings of the original: attention, alignment losses, log-barrier, CutMix, other losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from honne.batch import Batch, Labels
from honne.data.transforms import paste
from honne.losses import expression_loss, focal_loss, probability_error
from honne.methods.au_cues import (
    alignment_loss,
    barrier_temperature,
    log_barrier,
    segmentation_loss,
    spatial_attention,
)

Golden = dict[str, np.ndarray]
LOSSES = {"cosine": "cosine", "std_cosine": "standardised_cosine", "l1": "l1", "l2": "l2", "kl": "kl"}
SCALES = {"scale_to_attention": "attention", "scale_to_heatmap": "heat_map"}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array))


def close(mine: Tensor, recorded: np.ndarray, **tolerance: float) -> None:
    torch.testing.assert_close(
        mine.squeeze(), tensor(recorded).squeeze().to(mine.dtype), **CLOSE | tolerance, check_stride=False
    )


@pytest.mark.golden("au_cues", "attention_builders*.npz")
def test_attention(golden: Golden) -> None:
    maps, share = tensor(golden["features"]), float(golden["fixed_q"])
    close(spatial_attention(maps), golden["att_avg"])
    close(spatial_attention(maps, "first_half"), golden["att_avg_half_left"])
    close(spatial_attention(maps, "second_half"), golden["att_avg_half_right"])
    close(spatial_attention(maps, "first_share", share), golden["att_avg_fixed_q"])
    kept = tensor(golden["random_select_mask"]).flatten(1)
    close(spatial_attention(maps, "random_share", float(golden["random_p"]), kept), golden["att_random_avg"])
    close(spatial_attention(maps, "random_share", 1.0), golden["att_random_avg_p1"])


@pytest.mark.golden("au_cues", "align_loss*.npz")
def test_alignment_losses_and_their_gradients(golden: Golden) -> None:
    heatmap = tensor(golden["heatmap"])[:, 0]
    weight = float(golden["lambda"])
    keys = [key for key in golden if key.startswith("loss:")]
    assert keys
    for key in keys:
        name, scale, norm, barrier, layers = key.removeprefix("loss:").split("|")
        maps = {layer: tensor(golden[f"layer{layer}"]).requires_grad_() for layer in layers.split("-")}
        terms = [
            alignment_loss(
                spatial_attention(each),
                heatmap,
                LOSSES[name],
                norm.removeprefix("norm_"),
                SCALES[scale],
                barrier_temperature(0) if barrier == "elb1" else None,
            )
            for each in maps.values()
        ]
        loss = weight * torch.stack(terms).mean()
        close(loss.detach(), golden[key])
        if (gradient := f"grad{layers}:{key.removeprefix('loss:')}") in golden:
            largest = float(np.abs(golden[gradient]).max())
            close(torch.autograd.grad(loss, maps[layers])[0], golden[gradient], atol=max(1e-5 * largest, 1e-9))
        else:  # the original cannot back-propagate when attention is scaled to the heat map
            assert scale == "scale_to_heatmap" or "-" in layers
    nothing = alignment_loss(spatial_attention(tensor(golden["layer5"])), torch.full_like(heatmap, torch.inf))
    close(nothing, golden["loss_all_invalid"])


@pytest.mark.golden("au_cues", "elb*.npz")
def test_log_barrier(golden: Golden) -> None:
    schedule = golden["t_schedule"]
    np.testing.assert_allclose([barrier_temperature(epoch) for epoch in range(len(schedule))], schedule, rtol=1e-5)
    for key in golden:
        if key.startswith("per_value_after_"):
            epoch = int(key.split("_")[3])
            each = log_barrier(tensor(golden["fx"]), barrier_temperature(epoch))
            close(each, golden[key])
            close(each.mean(), golden[f"loss_after_{epoch}_updates"])


@pytest.mark.golden("au_cues", "au_segmentation_loss*.npz")
def test_segmentation_loss(golden: Golden) -> None:
    logits, target = tensor(golden["segment_logits"]), tensor(golden["binary_target"])
    known = tensor(golden["heatmap"]).isfinite().flatten(1).all(1)
    close(segmentation_loss(logits[:, 0], torch.where(known[:, None, None], target[:, 0], torch.nan)), golden["loss"])


@pytest.mark.golden("au_cues", "cutmix*.npz")
def test_cutmix_of_images_heat_maps_and_labels(golden: Golden) -> None:
    images, heatmaps = tensor(golden["images"]), tensor(golden["au_heatmap"])
    first, top, last, bottom = golden["box_x1y1x2y2"].tolist()
    labels = Labels(expression=tensor(golden["labels"]))
    classes = int(golden["labels"].max()) + 1
    # The original's x runs along the rows.
    mixed = paste(
        Batch(images=images, heatmaps=heatmaps, labels=labels),
        tensor(golden["permutation"]),
        (first, last, top, bottom),
        classes,
    )
    assert mixed.images is not None
    assert mixed.heatmaps is not None
    assert mixed.labels.distribution is not None
    close(mixed.images, golden["images_out"])
    close(mixed.heatmaps, golden["au_heatmap_out"])
    kept = float(golden["lam"])
    wanted = kept * F.one_hot(tensor(golden["labels_a"]), classes)
    wanted = wanted + (1 - kept) * F.one_hot(tensor(golden["labels_b"]), classes)
    close(mixed.labels.distribution, wanted.numpy())


@pytest.mark.golden("au_cues", "auxiliary_losses*.npz")
def test_losses_of_scores(golden: Golden) -> None:
    logits, labels = tensor(golden["logits"]), tensor(golden["labels"])
    one_hot = F.one_hot(labels, logits.shape[1]).float()
    other = F.one_hot(tensor(golden["cutmix_labels_b"]), logits.shape[1]).float()
    for key in golden:
        if key.startswith("ce_smooth"):
            close(expression_loss(logits, one_hot, None, float(key.removeprefix("ce_smooth"))), golden[key])
        elif key.startswith("ce_cutmix_lam"):
            kept = float(key.removeprefix("ce_cutmix_lam"))
            close(expression_loss(logits, kept * one_hot + (1 - kept) * other), golden[key])
        elif key.startswith("focal_a"):
            alpha, exponent = key.removeprefix("focal_a").split("_g")
            close(float(alpha) * focal_loss(logits, one_hot, float(exponent)), golden[key])
    close(probability_error(logits, one_hot), golden["mse"])
    close(probability_error(logits, one_hot, 1), golden["mae"])
    second = tensor(golden["acol_logits_b"])
    close(expression_loss(logits, one_hot) + expression_loss(second, one_hot), golden["ce_acol"])
