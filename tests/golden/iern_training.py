"""Losses of IERN, and three whole training steps of a tiny network in each of the three ways to update.

Of the recordings these arrays are not compared:

* `grad1.netRecons.*`: the reference leaves there the decoder's gradient of the classifier's loss, which it never
  applies; it is not computed here. The decoder's own step is compared by its weights (`after1`, `after3`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from honne.batch import Batch, Labels
from honne.data.loading import lightning
from honne.labels import LabelSchema
from honne.methods.iern import Iern, IernOptions, center_loss, confusion_loss, known_cross_entropy
from honne.methods.strata import Strata
from honne.networks.face import FaceNetwork
from honne.schedules import OptimOptions

Arrays = dict[str, np.ndarray]

PARTS = {
    "netBase.0": "network.backbone.conv",
    "netBase.1": "network.backbone.norm",
    "netBase.3": "network.expression.projection",
    "netEmoGen": "network.expression.emotion",
    "netConGen": "context",
    "netRecons": "network.expression.decoder",
    "netEmoDis": "emotion_discriminator",
    "netConDis": "stratum_discriminator",
    "netCls.fc": "network.expression.classifier",
    "netCnfnd.mem_tensors": "network.expression.prototypes",
    "centers": "centers",
}
"""Our names of the reference's parts."""

IN_BLOCK = {"0": "conv1", "1": "norm1", "3": "conv2", "4": "norm2"}

LOGGED = {  # where the two halves of a sum are logged each as the half that it is
    "ConGen": ("context_encoder", 2),
    "EmoGen": ("emotion_encoder", 2),
    "Recons": ("reconstruction", 1),
    "ConDis": ("stratum_discriminator", 2),
    "EmoDis": ("emotion_discriminator", 2),
    "Cnfnd": ("prototypes", 1),
    "Cls": ("expression", 1),
}


def ours(key: str) -> str:
    """Our name of an entry of the reference's state."""
    part = next(part for part in PARTS if key == part or key.startswith(f"{part}."))
    return PARTS[part] + within(key.removeprefix(part))


def within(rest: str) -> str:
    """Our name of an entry of one of the reference's encoders, decoder or discriminators."""
    rest = re.sub(r"\bfeat_encoder\.(\d+)", r"\1", rest)
    rest = re.sub(r"\bfeat_decoder\.0\b", "first", rest)
    rest = re.sub(r"\bfeat_decoder\.(\d+)", lambda found: f"blocks.{int(found[1]) - 1}", rest)
    rest = re.sub(r"\bconv_block\.(\d)", lambda found: IN_BLOCK[found[1]], rest)
    return re.sub(r"\bmodel\.(\d+)", lambda found: f"layers.{int(found[1]) // 2}", rest)


def under(arrays: Arrays, prefix: str) -> Arrays:
    """The entries below a prefix, by our names."""
    return {ours(key.removeprefix(prefix)): value for key, value in arrays.items() if key.startswith(prefix)}


def as_state(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value) for name, value in arrays.items()}


# --- losses ------------------------------------------------------------------------------------------------------


def given(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.copy()).requires_grad_(array.dtype.kind == "f")


def assert_close(found: Tensor | None, wanted: np.ndarray, what: str) -> None:
    assert found is not None, what
    tolerance = 1e-12 if wanted.dtype == np.float64 and wanted.ndim else 1e-5
    atol = tolerance * max(np.abs(wanted).max(), 1e-30) / 10
    np.testing.assert_allclose(found.detach(), wanted, rtol=tolerance, atol=atol, err_msg=what)


@pytest.mark.golden("iern", "center_loss*.npz")
def test_center_loss(golden: Arrays) -> None:
    centers, features = given(golden["centers"]), given(golden["x"])
    loss = center_loss(features, centers, given(golden["labels"]))
    loss.backward()
    assert_close(loss, golden["loss"], "loss")
    assert_close(features.grad, golden["grad_x"], "grad_x")
    assert_close(centers.grad, golden["grad_centers"], "grad_centers")


@pytest.mark.golden("iern", "losses*.npz")
def test_losses(golden: Arrays) -> None:
    emotions, strata = given(golden["emo_label"]), given(golden["cnfnd_label"])
    for labels, mean in ((emotions, "mean_emo_label"), (strata, "mean_cnfnd_label")):
        uniform = golden[mean]  # `confusion_loss` makes the like of it from the width of the logits
        np.testing.assert_allclose(uniform, np.full((len(labels), uniform.shape[1]), 1 / uniform.shape[1]), rtol=1e-6)
    for name, labels, logits, gradient in (
        ("loss_EmoDis", emotions, "dis_emo_logits_on_emo", "grad_dis_emo_logits"),
        ("loss_ConDis", strata, "dis_con_logits_on_con", "grad_dis_con_logits"),
    ):
        values = given(golden[logits])
        loss = known_cross_entropy(values, labels)
        (loss / 2).backward()
        assert_close(loss, golden[name], name)
        assert_close(values.grad, golden[gradient], gradient)
    for name, logits, gradient in (
        ("loss_ConGen", "dis_emo_logits_on_con", "grad_gen_emo_logits"),
        ("loss_EmoGen", "dis_con_logits_on_emo", "grad_gen_con_logits"),
    ):
        values = given(golden[logits])
        loss = confusion_loss(values)
        (loss / 2).backward()
        assert_close(loss, golden[name], name)
        assert_close(values.grad, golden[gradient], gradient)


class _Decodes(nn.Module):
    """A decoder that gives what was recorded."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, emotion: Tensor, context: Tensor) -> Tensor:
        return self.out


class _Says(nn.Module):
    """A discriminator that gives what was recorded."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, maps: Tensor) -> Tensor:
        return self.logits


@pytest.mark.golden("iern", "losses*.npz")
def test_loss_of_the_features(golden: Arrays) -> None:
    """The whole sum as the method makes it: the centres' gradient does not depend on lambda."""
    context, base, decoded = (given(golden[name]) for name in ("con_feat", "base_feat", "rec_base_feat"))
    of_emotions, of_strata = given(golden["dis_emo_logits_on_con"]), given(golden["dis_con_logits_on_emo"])
    made = method(
        shape=context.shape[1:],
        strata=of_strata.shape[1],
        classes=of_emotions.shape[1],
        options=IernOptions(center_weight=float(golden["lambda_cnfnd"]), channels=context.shape[1]),
        backbone_options=small(context.shape[1]),
    )
    made.emotion_discriminator, made.stratum_discriminator = _Says(of_emotions), _Says(of_strata)  # type: ignore[assignment]
    made.head.decoder = _Decodes(decoded)  # type: ignore[assignment]
    made.centers = nn.Parameter(torch.from_numpy(golden["centers"].copy()))
    labels = given(golden["emo_label"]), given(golden["cnfnd_label"])
    terms, _ = made._features(base, torch.zeros_like(base), context, *labels)
    torch.stack(list(terms.values())).sum().backward()
    for name, key in (
        ("EmoGen", "loss_EmoGen"),
        ("ConGen", "loss_ConGen"),
        ("Cnfnd", "loss_Cnfnd_scaled"),
        ("Recons", "loss_Recons"),
    ):
        logged, times = LOGGED[name]
        assert_close(terms[logged] * times, golden[key], key)
    for found, key in (
        (of_emotions, "grad_gen_emo_logits"),
        (of_strata, "grad_gen_con_logits"),
        (context, "grad_con_feat"),
        (decoded, "grad_rec_base_feat"),
        (base, "grad_base_feat"),
        (made.centers, "grad_centers_rescaled"),
    ):
        assert_close(found.grad, golden[key], key)


# --- training ----------------------------------------------------------------------------------------------------


class Stem(nn.Module):
    """The recorded backbone: a convolution, BatchNorm, ReLU; its last convolution is the head's projection."""

    def __init__(self, weight: np.ndarray, stride: int) -> None:
        super().__init__()
        width, channels, side, _ = weight.shape
        self.conv = nn.Conv2d(channels, width, side, stride, side // 2)
        self.norm = nn.BatchNorm2d(width)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)).relu()

    def forward_head(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


def method(
    shape: tuple[int, ...],
    strata: int,
    classes: int,
    options: IernOptions,
    optim: OptimOptions | None = None,
    backbone: str = "face_resnet",
    backbone_options: dict[str, Any] | None = None,
) -> Iern:
    """A method for prototypes (channels, h, w) of this shape."""
    schema = LabelSchema(tuple(f"class {number}" for number in range(classes)))
    channels, *side = shape
    names = [f"stratum {number}" for number in range(strata)]
    head_options = {
        "strata": names,
        "side": side,
        "channels": channels,
        "encoder_blocks": options.encoder_blocks,
        "decoder_blocks": options.decoder_blocks,
    }
    network = FaceNetwork(schema, backbone, backbone_options, head="interventional", head_options=head_options)
    return Iern(
        options,
        strata=Strata(tuple(names), torch.arange(strata), torch.ones(classes, strata)),
        network=network,
        schema=schema,
        normalise=nn.Identity(),
        optim=optim or OptimOptions(),
    )


def small(width: int) -> dict[str, Any]:
    """Options of a `face_resnet` whose last map has so many channels."""
    return {"layers": [1] * 4, "channels": [width] * 4, "stem_width": width}


def recorded_method(start: Arrays, update: str) -> Iern:
    """The method in the recorded initial state."""
    config = {key.removeprefix("cfg."): value.item() for key, value in start.items() if key.startswith("cfg.")}
    weight = start["init.netBase.0.weight"]
    strata, *shape = start["init.netCnfnd.mem_tensors"].shape
    assert strata == start["cnfnd_num"]
    made = method(
        shape=tuple(shape),
        strata=strata,
        classes=int(start["emo_num"]),
        backbone_options=small(len(weight)),
        options=IernOptions(
            update=update,  # type: ignore[arg-type]
            channels=shape[0],
            encoder_blocks=config["n_gen_blk"],
            decoder_blocks=config["n_recons_blk"],
            discriminator_blocks=config["n_dis_blk"],
            center_weight=config["lambda_cnfnd"],
        ),
        optim=OptimOptions(
            "adam",
            lr=config["base_lr"],
            head_lr=config["lr"],
            beta1=config["beta1"],
            weight_decay=0,
            schedule="constant",
            warmup=0,
            clip=0,
        ),
    )
    made.network.backbone = Stem(weight, stride=round(start["x"].shape[-1] / shape[-1]))
    state = under(start, "init.")
    left = made.load_state_dict(as_state(state), strict=False)
    assert not left.unexpected_keys
    assert left.missing_keys == ["met"]  # of running means, which the reference does not know
    assert set(state) | {"met"} == set(made.state_dict())
    return made


def recorded_batch(start: Arrays, step: int) -> Batch:
    images, emotions, strata = (torch.from_numpy(start[name][step].copy()) for name in ("x", "emo", "cnfnd"))
    return Batch(images=images, labels=Labels(expression=emotions), domain=strata)


class Recorder(lightning.Callback):
    """What a run shows of itself: terms, averages and smallest gradients by step, and states after it."""

    def __init__(self, made: Iern) -> None:
        self.terms: list[dict[str, Tensor]] = []
        self.averages: list[Tensor] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.states: list[dict[str, Tensor]] = []
        self.least: dict[str, Tensor] = {}
        self.leasts: list[dict[str, Tensor]] = []
        self.names = {entry: name for name, entry in made.named_parameters()}
        log_dict, adjusted, descend = made.log_dict, made.head.adjusted, made._descend

        def log(values: dict[str, Tensor], **how: Any) -> None:
            self.terms.append(values)
            log_dict(values, **how)

        def average(logits: Tensor) -> Tensor:
            self.averages.append(adjusted(logits))
            return self.averages[-1]

        def step(terms: dict[str, Tensor], chosen: Any, **how: Any) -> None:
            descend(terms, chosen, **how)
            for entry in (entry for group in chosen.param_groups for entry in group["params"]):
                size = entry.grad.abs()
                name = self.names[entry]
                self.least[name] = torch.minimum(self.least.get(name, size), size)

        made.log_dict, made.head.adjusted, made._descend = log, average, step  # type: ignore[method-assign, assignment]

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Iern, *_: Any) -> None:  # type: ignore[override]
        self.states.append({name: value.detach().clone() for name, value in module.state_dict().items()})
        found = {name: value.grad for name, value in module.named_parameters()}
        self.gradients.append({name: value.clone() for name, value in found.items() if value is not None})
        self.leasts.append(dict(self.least))


@pytest.mark.golden("iern", "train_init*.npz")
def test_the_recorded_initial_state_is_the_whole_of_ours(golden: Arrays) -> None:
    made = recorded_method(golden, "fresh")
    assert golden["loss_names"].tolist() == list(LOGGED)
    assert not made.head.prototypes.any()
    for step in range(len(golden["x"])):
        batch = recorded_batch(golden, step)
        emotions, strata = made._labels(batch)
        np.testing.assert_array_equal(emotions, golden["emo"][step])
        np.testing.assert_array_equal(strata, golden["cnfnd"][step])


@pytest.mark.golden("iern", "train_[!i]*.npz")
@pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no")
def test_three_steps(golden: Arrays, golden_file: Path) -> None:
    mode = golden_file.stem.removeprefix("train_").partition("_")[0]
    with np.load(golden_file.with_name(golden_file.name.replace(mode, "init")), allow_pickle=False) as arrays:
        start = dict(arrays)
    golden = {key.removeprefix(f"{mode}."): value for key, value in golden.items()}
    made = recorded_method(start, mode)
    recorder = Recorder(made)
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        callbacks=[recorder],
    )
    batches = [recorded_batch(start, step) for step in range(len(start["x"]))]
    trainer.fit(made, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]

    for number, name in enumerate(golden["loss_names"].tolist()):
        logged, times = LOGGED[name]
        found = [float(terms[f"train/{logged}"]) * times for terms in recorder.terms]
        np.testing.assert_allclose(found, golden["losses"][:, number], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(torch.stack(recorder.averages).detach(), golden["pred_emo"], atol=1e-5)

    gradients = under(golden, "grad1.")
    for name, wanted in gradients.items():
        if not name.startswith(PARTS["netRecons"]):
            rounding = max(1e-6, 1e-5 * np.abs(wanted).max())
            np.testing.assert_allclose(recorder.gradients[0][name], wanted, rtol=1e-4, atol=rounding, err_msg=name)
    assert {name for name, value in made.named_parameters() if value.requires_grad} == set(gradients)
    for after, tolerance in (("after1.", 1e-6), ("after3.", 1e-4)):
        done = int(after[-2])
        assert_state(recorder, done, under(golden, after), gradients, tolerance, made.optim)
    made.load_state_dict(as_state(under(golden, "after3.")), strict=False)  # without the noise of `assert_state`
    assert_inference(made, start, golden)


def assert_state(
    recorder: Recorder, done: int, wanted: Arrays, gradients: Arrays, tolerance: float, optim: OptimOptions
) -> None:
    """Weights and statistics after so many steps.

    Adam turns the noise of a gradient that is 0 into a whole step: such entries are only known to have gone no further
    than so many steps, and so is the mean of the maps behind a bias whose gradient is 0 because BatchNorm takes it off.
    """
    found, smallest = recorder.states[done - 1], recorder.leasts[done - 1]
    assert set(wanted) | {"met"} == set(found)
    loose = 2.5 * done * max(optim.lr, optim.head_lr or 0)
    compared = []
    for name, recorded in wanted.items():
        distance = np.abs(found[name].double().numpy() - recorded)
        limit = tolerance + 1e-6 * np.abs(recorded)
        if name in gradients:
            recorded_gradient = np.abs(gradients[name])  # held against ours by itself, so that 0 here is a real 0
            noise = (recorded_gradient > 0) & (np.minimum(recorded_gradient, smallest[name]).numpy() <= 1e-6)
            compared.append(~noise.ravel())
            limit = np.where(noise, loose, limit)
        elif name == PARTS["netBase.1"] + ".running_mean":
            limit = limit + loose
        assert (distance <= limit).all(), f"{name}: {distance.max()} after {done}"
    assert np.concatenate(compared).mean() > 0.95


def assert_inference(made: Iern, start: Arrays, golden: Arrays) -> None:
    made.eval()
    with torch.inference_mode():
        batch = recorded_batch(start, 0)
        assert batch.images is not None
        prediction, base = made.predict(batch), made.head.projection(made.network.maps(batch.images))
        emotion = made.head.encode(made.network.maps(batch.images))
    assert prediction.strata is not None
    for found, name in (
        (prediction.strata.transpose(0, 1), "pred_all"),
        (prediction.expression, "pred"),
        (emotion, "emo_feat"),
        (base, "base_feat"),
    ):
        assert found is not None
        np.testing.assert_allclose(found, golden[f"test.{name}"], rtol=1e-5, atol=1e-5, err_msg=name)
