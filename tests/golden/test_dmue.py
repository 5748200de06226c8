"""DMUE against recordings of the authors' released code: schedules, routing, mining, losses, a whole step.

The recordings of its networks, faces and data are in files of their own beside this one.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from dmue_data import (  # noqa: F401  tests, collected here
    test_chosen_votes,
    test_evaluation_shows_the_centre_of_the_resized_picture,
    test_noise,
    test_plane_normalisation,
    test_targets_and_kept_images,
    test_vector_of_the_multi_target_loss,
)
from dmue_faces import (  # noqa: F401
    test_alignment_to_98_points,
    test_enlarged_crop,
    test_landmarks_from_heat_maps,
    test_margin_heads,
)
from dmue_networks import (  # noqa: F401
    test_blocks,
    test_resnet18_multi_branch_checkpoint_becomes_the_target_model,
    test_resnet50_ibn_a,
)
from seeding import key_seeded
from torch import Tensor, nn

from honne.batch import Batch, Labels
from honne.data.sampling import class_balanced, class_weights
from honne.data.transforms import Normalise
from honne.labels import LabelSchema
from honne.methods.dmue import (
    Dmue,
    DmueOptions,
    insert_zero,
    mined_distribution,
    other_labels,
    ramp_down,
    ramp_up,
    soft_label_loss,
)
from honne.networks.branches import Answers, routes
from honne.networks.face import FaceNetwork
from honne.schedules import OptimOptions, optimizer, rate_at

Golden = dict[str, np.ndarray]


def tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)


@pytest.mark.golden("dmue", "ramps*.npz")
def test_ramps(golden: Golden) -> None:
    height = float(golden["lamda"])
    for i, alpha in enumerate(golden["alpha"].tolist()):
        for j, epoch in enumerate(golden["epoch"].tolist()):
            assert ramp_up(epoch, alpha) == pytest.approx(golden["up"][i, j], rel=1e-12)
            assert ramp_down(epoch, alpha) == pytest.approx(golden["down"][i, j], rel=1e-12)
            assert ramp_up(epoch, alpha, height) == pytest.approx(golden["up_lamda"][i, j], rel=1e-12)
            assert ramp_down(epoch, alpha, height) == pytest.approx(golden["down_lamda"][i, j], rel=1e-12)


@pytest.mark.golden("dmue", "lr_schedule*.npz")
def test_rate_tables(golden: Golden) -> None:
    for table, recorded in (("table_backbone", "lr_backbone"), ("table_classifier", "lr_classifier")):
        rates = [rate_at(golden[table].tolist(), epoch) for epoch in golden["epoch"].tolist()]
        np.testing.assert_array_equal(rates, golden[recorded])


@pytest.mark.golden("dmue", "branch_split*.npz")
def test_routes(golden: Golden) -> None:
    for batch in (key.removesuffix("labels") for key in golden if key.endswith("_labels")):
        labels = tensor(golden[f"{batch}labels"])
        classes = sum(bool(re.fullmatch(f"{batch}aux\\d+_index", key)) for key in golden)
        own, others = routes(labels, classes)
        target = other_labels(labels, classes)
        for branch in range(classes):
            np.testing.assert_array_equal(others[branch], golden[f"{batch}aux{branch}_index"])
            np.testing.assert_array_equal(target[branch, others[branch]], golden[f"{batch}aux{branch}_target"])
            np.testing.assert_array_equal(own[branch], golden[f"{batch}ld{branch}_index"])


@pytest.mark.golden("dmue", "label_distribution_soft_loss*.npz")
def test_mined_distribution_and_soft_loss(golden: Golden) -> None:
    for batch in (key.removesuffix("num_classes") for key in golden if key.endswith("num_classes")):
        labels = tensor(golden[f"{batch}labels"])
        own = tensor(golden[f"{batch}own_branch_logits"])
        mined = mined_distribution(own, labels, float(golden[f"{batch}T"]))
        np.testing.assert_allclose(mined, golden[f"{batch}softlabel"], rtol=1e-5, atol=1e-7)
        logits = tensor(golden[f"{batch}target_logits"]).requires_grad_()
        loss = soft_label_loss(logits, labels, mined)
        loss.backward()
        assert loss.item() == pytest.approx(float(golden[f"{batch}soft_loss"]), rel=1e-5)
        np.testing.assert_allclose(logits.grad, golden[f"{batch}grad_target_logits"], rtol=1e-5, atol=1e-8)


@pytest.mark.golden("dmue", "sampler*.npz")
def test_sampling_weights_and_the_filter(golden: Golden) -> None:
    labels = golden["labels"]
    np.testing.assert_allclose(class_weights(labels), golden["weights"], rtol=1e-12)
    some = golden["subset_indices"]
    np.testing.assert_allclose(class_weights(labels[some]), golden["subset_weights"], rtol=1e-12)
    assert len(class_balanced(np.arange(len(labels)), labels)(0)) == golden["length"]
    length = int(golden["subset_length"])
    assert np.isin(class_balanced(some, labels[some], count=length)(0), some).sum() == length
    classes = int(golden["num_classes"])
    trained = released_method(classes, tiny_network(classes, False, (8, 8, 8, 8)))
    for batch, accepted in zip(golden["batches"], golden["batch_ok"], strict=True):
        assert trained.complete(tensor(batch)) == accepted


def tiny_network(classes: int, neck: bool, widths: tuple[int, ...]) -> FaceNetwork:
    """Released stem, one block a stage."""
    schema = LabelSchema(tuple(f"class {i}" for i in range(classes)))
    shape = {"layers": [1] * 4, "channels": list(widths)}
    network = FaceNetwork(schema, "dmue_resnet18", shape, dropout=0.0, neck=neck, head_bias=False)
    stem = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)  # timm's is 64 wide always
    backbone = network.backbone
    backbone.conv1, backbone.bn1 = stem, nn.BatchNorm2d(widths[0])
    block = backbone.layer1[0]
    block.conv1, block.downsample = nn.Conv2d(widths[0], widths[0], 3, 1, 1, bias=False), None
    return network


def released_method(classes: int, network: FaceNetwork, **options: object) -> Dmue:
    return Dmue(
        DmueOptions(compat="released", **options),
        network=network,
        schema=LabelSchema(tuple(f"class {i}" for i in range(classes))),
        normalise=Normalise([0.5] * 3, [0.5] * 3),
        optim=OptimOptions("adam", lr=1e-4, head_lr=1e-3, weight_decay=1e-4, decayed="all", schedule="constant"),
    )


def ours(key: str, classes: int) -> tuple[str, int | None]:
    """Our name of a reference entry; for those that we keep stacked, also the place in the stack."""
    number = re.search(r"(?:layer4_|classifiers\.)(\d+)", key)
    branch = int(number[1]) if number else None
    if key.startswith("classifiers."):
        return ("network.expression.weight", None) if branch == classes else ("branches.classifiers", branch)
    if branch == classes:
        return "network.backbone." + re.sub(r"^base\.layer4_\d+", "layer4", key), None
    if branch is not None:
        return re.sub(r"^base\.layer4_(\d+)", r"branches.endings.\1.0", key), None
    for prefix, name in (
        ("base", "network.backbone"),
        ("bottleneck", "network.neck"),
        ("project_w", "confidence.layers"),
    ):
        if key.startswith(prefix):
            return name + key.removeprefix(prefix), None
    raise KeyError(key)


def load(method: Dmue, arrays: dict[str, np.ndarray], classes: int) -> None:
    state = method.state_dict()
    filled = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in state.items()}
    for key, value in arrays.items():
        name, place = ours(key, classes)
        where = ... if place is None else place
        assert state[name][where].shape == value.shape
        state[name][where] = torch.as_tensor(value)
        filled[name][where] = True
    assert all(value.all() for name, value in filled.items() if "num_batches_tracked" not in name)


def under(golden: Golden, prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}


@pytest.mark.golden("dmue", "tiny_step*.npz")
def test_one_step(golden: Golden) -> None:
    parameters, labels = under(golden, "param/"), tensor(golden["labels"])
    classes = int(golden["num_classes"])
    widths = [
        len(parameters[f"base.{name}.weight"]) for name in ("conv1", "layer2.0.bn1", "layer3.0.bn1", "layer4_0.0.bn1")
    ]
    method = released_method(
        classes,
        tiny_network(classes, bool(golden["neck"]), tuple(widths)),
        soft_weight=float(golden["w"]),
        similarity_weight=float(golden["gamma"]),
        temperature=float(golden["T"]),
        ramp=float(golden["ramp_alpha"]),
    )
    load(method, parameters, classes)
    method.train(str(golden["bn_mode"]) == "train")
    branches, network = method.branches, method.network
    features = branches.features(network, tensor(golden["images"]), labels, learn=True)
    answers = branches.answers(network, *features, labels)
    check_answers(golden, method, answers, labels, classes)
    losses = method.losses(answers, labels)
    for name, recorded in (
        ("expression", "ce_weighted"),
        ("branches", "aux_mean"),
        ("soft", "soft"),
        ("similarity", "sp"),
    ):
        assert losses[name].item() == pytest.approx(float(golden[f"loss_{recorded}"]), rel=1e-4), name

    load(method, parameters, classes)  # the pass above moved the running statistics
    untrained = [ours(key, classes)[0] for key in golden["not_updated_parameters"]]
    assert set(untrained) == {name for name, value in method.named_parameters() if not value.requires_grad}
    for name in untrained:  # whose gradients are recorded, though the released optimiser never uses them
        method.get_parameter(name).requires_grad_(True)
    type(method).current_epoch = property(lambda _: int(golden["epoch"]))  # type: ignore[assignment]
    try:
        terms = method.loss(Batch(images=tensor(golden["images"]), labels=Labels(expression=labels)))
    finally:
        del type(method).current_epoch
    total = torch.stack(list(terms.values())).sum()
    assert total.item() == pytest.approx(float(golden["loss_total"]), rel=1e-4)
    total.backward()
    check_gradients(golden, method, classes)
    for name in untrained:
        method.get_parameter(name).requires_grad_(False)
    optimizer(method, method.optim, backbone=method.backbone).step()
    check_state(golden, method, classes)


def check_answers(golden: Golden, method: Dmue, answers: Answers, labels: Tensor, classes: int) -> None:
    def close(found: Tensor, recorded: str) -> None:
        np.testing.assert_allclose(found.detach(), golden[recorded], rtol=1e-4, atol=1e-5, err_msg=recorded)

    own, others = routes(labels, classes)
    score = method.confidences(answers.features, labels)
    close(answers.logits, "target_logits")
    close(score.view(golden["score"].shape), "score")
    close(answers.logits * score[:, None], "weighted_target_logits")
    close(method.mined(answers, labels), "softlabel")
    for branch in range(classes):
        close(answers.branch_logits[branch, others[branch]], f"aux_logits_{branch}")
        close(answers.branch_logits[branch, own[branch]], f"ld_logits_{branch}")


def check_gradients(golden: Golden, method: Dmue, classes: int) -> None:
    for key, recorded in under(golden, "grad/").items():
        name, place = ours(key, classes)
        gradient = method.get_parameter(name).grad
        assert gradient is not None, key
        found = gradient if place is None else gradient[place]
        rounding = 1e-6 * max(1.0, np.abs(recorded).max())  # of float32 sums of terms of that size
        np.testing.assert_allclose(found, recorded, rtol=1e-3, atol=rounding, err_msg=key)


def check_state(golden: Golden, method: Dmue, classes: int) -> None:
    state = method.state_dict()
    for key, recorded in under(golden, "after_step/").items():
        name, place = ours(key, classes)
        found = state[name] if place is None else state[name][place]
        np.testing.assert_allclose(found, recorded, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.golden("dmue", "full_resnet18*.npz")
def test_branches_of_resnet18(golden: Golden) -> None:
    classes, labels = int(golden["num_classes"]), tensor(golden["labels"])
    schema = LabelSchema(tuple(f"class {i}" for i in range(classes)))
    method = released_method(classes, FaceNetwork(schema, "dmue_resnet18", neck=True, head_bias=False)).eval()
    entries = key_seeded(golden["keys_multibranch"], golden["shapes_multibranch"], str(golden["salt"]))
    load(method, {key: value.numpy() for key, value in entries.items()}, classes)
    with torch.inference_mode():
        features = method.branches.features(method.network, tensor(golden["images"]), labels, learn=True)
        answers = method.branches.answers(method.network, *features, labels)
        score = method.confidences(answers.features, labels)
    own, others = routes(labels, classes)
    each = golden["aux_logits"].shape[1]
    learned = torch.stack([answers.branch_logits[branch, others[branch][:each]] for branch in range(classes)])
    shown = len(golden["ld_logits"]) // classes
    mined = torch.cat([answers.branch_logits[branch, own[branch][:shown]] for branch in range(classes)])
    for found, name in ((answers.logits, "target_logits"), (learned, "aux_logits"), (mined, "ld_logits")):
        np.testing.assert_allclose(found, golden[name], rtol=1e-3, atol=1e-3, err_msg=name)
    np.testing.assert_allclose(score, golden["score"].ravel(), rtol=1e-3)


def test_a_zero_is_put_in_at_the_label() -> None:
    values = torch.arange(1.0, 7.0).view(2, 3)
    assert insert_zero(values, torch.tensor([0, 3])).tolist() == [[0, 1, 2, 3], [4, 5, 6, 0]]
