"""Models on disk and in memory: save, load, list.

    MODEL/model.safetensors  weights (half precision where that changes nothing that matters)
    MODEL/config.yaml        method, network, labels, input, alignment, temperature, thresholds, hashes
    MODEL/metrics.json       figures of the run that made it
    MODEL/card.md            data, licences, figures with intervals, limits

Nothing is pickled. Loading checks the hashes of weights and configuration.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from honne.batch import Batch, Prediction
from honne.console import say, table
from honne.data.manifest import replacing, sha256
from honne.data.transforms import Normalise
from honne.errors import HonneError, WrongCall
from honne.faces.align import Alignment
from honne.labels import LabelSchema
from honne.networks import build

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 32  # images per forward pass: larger ones are slower on CPU


@dataclass
class ModelConfig:
    """What `config.yaml` holds.

    Attributes:
        name: of the model.
        method: that trained it.
        network: {"kind": ..., "options": {...}} for `honne.networks.build`.
        labels: label schema.
        mean, std: of the input per channel, of images in [0, 1].
        alignment: `Alignment` as a dictionary.
        temperature: divides logits of expressions and of emotions (calibration).
        thresholds: action unit -> probability from which it counts as present.
        abstain: uncertainty above which the model abstains; unset = never.
        features: modality -> how its features are made of a clip, as the training data have it; of fusion networks.
        explanation: what explains it unless told otherwise: `map` (a kind of `honne explain`), `codebook`, and of
            models trained with AU cues `aligned` (layers, as "4-5") and `cue` (what their heat maps show).
        training: recipe, data, split, seed, hashes; `published`: figures of the published row that it repeats.
        licence: of code, weights and data.
        cite: BibTeX keys or texts of what to cite.
    """

    name: str
    method: str
    network: dict[str, Any]
    labels: LabelSchema
    mean: list[float]
    std: list[float]
    alignment: dict[str, Any]
    temperature: float = 1.0
    thresholds: dict[int, float] = field(default_factory=dict)
    abstain: float | None = None
    explanation: dict[str, str] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    licence: dict[str, str] = field(default_factory=dict)
    cite: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For YAML."""
        values = asdict(self) | {"labels": self.labels.to_dict()}
        for name in ("explanation", "features"):  # as it was before there were any: hashes must not change
            if not values[name]:
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`."""
        return cls(**values | {"labels": LabelSchema.from_dict(values["labels"])})

    @property
    def network_name(self) -> str:
        """What kind of network it is, for people: "resnet18", "3 x resnet18 over windows of 32 frames"."""
        options, words, windows = self.network["options"], "", ""
        if self.network["kind"] == "counterfactual":
            return f"{options['backbone']['kind']} with counterfactual branches ({', '.join(options['modalities'])})"
        if "modalities" in options:
            return f"{self.network['kind']} ({', '.join(options['modalities'])})"
        while "backbone" not in options and ("options" in options or "frames" in options):
            words += f"{options['members']} x " if "members" in options else ""
            windows = f" over windows of {options['length']} frames" if "length" in options else windows
            options = options["options"] if "options" in options else options["frames"]
        return f"{words}{options.get('backbone', self.network['kind'])}{windows}"

    def sha256(self) -> str:
        """Digest that does not depend on how the YAML is laid out."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


class Model:
    """A trained model, ready to predict.

    Args:
        config: `ModelConfig`.
        network: with its weights; put into evaluation mode.
        folder: where it was loaded from.
        weights_sha256: digest of the weights file.

    Attributes:
        schema: `LabelSchema` of its outputs.
        alignment: how a face must be cropped for it.
        sha256: digest of weights and configuration together; names the model in every result.
    """

    def __init__(
        self, config: ModelConfig, network: nn.Module, folder: Path | None = None, weights_sha256: str = ""
    ) -> None:
        self.config = config
        self.network = network.eval().requires_grad_(False)
        self.folder = folder
        self.sha256 = hashlib.sha256((weights_sha256 + config.sha256()).encode()).hexdigest()
        self.normalise = Normalise(config.mean, config.std, channels_last=True)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def schema(self) -> LabelSchema:
        return self.config.labels

    @cached_property
    def alignment(self) -> Alignment:
        return Alignment.from_dict(self.config.alignment)

    def require_labels(self) -> None:
        """Refuse a pre-trained trunk, whose label schema is empty: it says nothing that could be shown or measured.

        Raises:
            HonneError: it is one.
        """
        if self.schema == LabelSchema():
            raise HonneError(
                f"Model '{self.name}' names no expression and nothing else: it is a pre-trained trunk.",
                "Train from it: honne train RECIPE ... --model.weights MODEL.",
            )

    @property
    def thresholds(self) -> dict[int, float]:
        return {unit: self.config.thresholds.get(unit, 0.5) for unit in self.schema.action_units}

    @property
    def length(self) -> int:
        """Frames in a window of a temporal model; 0 of a model that takes each face for itself."""
        return int(getattr(self.network, "length", 0))

    @property
    def modalities(self) -> tuple[str, ...]:
        """What a model of feature sequences takes, in order; empty of one that takes faces."""
        return tuple(getattr(self.network, "modalities", ()))

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> Model:
        """Move the network; returns the model."""
        self.network.to(device)
        self.normalise.to(device)
        return self

    @torch.inference_mode()
    def forward_batch(self, batch: Batch) -> Prediction:
        """Predictions for a batch of uint8 images, expression logits already divided by the temperature."""
        batch = batch.to(self.device)
        if batch.images is not None:
            batch = replace(batch, images=self.normalise(batch.images))
        return self._calibrated(self.network(batch))

    def _calibrated(self, prediction: Prediction) -> Prediction:
        if prediction.expression is not None:
            prediction.expression = prediction.expression / self.config.temperature
        if prediction.strata is not None:
            prediction.strata = prediction.strata / self.config.temperature
        if prediction.emotions is not None:
            prediction.emotions = prediction.emotions / self.config.temperature
        return prediction

    def predict(self, images: np.ndarray) -> Prediction:
        """Predictions for (N, S, S, 3) uint8 crops made with `alignment`; the same whatever N is.

        A temporal model takes each for itself; `frame_features` and `over_time` are for videos.
        """
        parts = [self.forward_batch(Batch(images=chunk)) for chunk in self._chunks(images)]

        def join(name: str) -> Tensor | None:
            values = [getattr(part, name) for part in parts]
            return torch.cat(values).cpu() if values and values[0] is not None else None

        return Prediction(**{f.name: join(f.name) for f in fields(Prediction)})

    def _chunks(self, images: np.ndarray) -> Iterable[Tensor]:
        if self.modalities:
            raise HonneError(
                f"Model '{self.name}' takes sequences of {', '.join(self.modalities)}, not pictures of faces.",
                "Give it clips (honne analyze clip.mp4), or take a model of faces.",
            )
        size = self.alignment.size
        if images.ndim != 4 or images.shape[1:] != (size, size, 3) or images.dtype != np.uint8:
            raise ValueError(f"expected (N, {size}, {size}, 3) uint8 crops, got {images.shape} {images.dtype}")
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).split(CHUNK)

    @torch.inference_mode()
    def features_batch(self, images: Tensor) -> Tensor:
        """(B, F) what a temporal model sees of each of (B, 3, S, S) uint8 crops, on its own device."""
        return cast(Any, self.network).features(self.normalise(images.to(self.device)))

    def frame_features(self, images: np.ndarray) -> Tensor:
        """(N, F) what a temporal model sees of each of (N, S, S, 3) uint8 crops; the same whatever N is."""
        return torch.cat([self.features_batch(chunk).float().cpu() for chunk in self._chunks(images)])

    @torch.inference_mode()
    def over_time(self, features: Tensor, clips: Tensor | None = None) -> Prediction:
        """What a temporal model says of R frames.

        Args:
            features: (R, F) from `frame_features`.
            clips: (W, N) rows of `features` that each window shows, -1 where padded; None = each frame for itself.
        """
        clips = None if clips is None else clips.to(self.device)
        prediction = cast(Any, self.network).over_time(features.to(self.device), clips)
        return self._calibrated(prediction).to("cpu", torch.float32)

    def uncertainty(self, prediction: Prediction) -> Tensor:
        """(N,) in 0..1: the method's own estimate, else the entropy of the calibrated probabilities over log C."""
        if prediction.uncertainty is not None:
            return prediction.uncertainty
        if prediction.expression is None:
            raise ValueError(f"model '{self.name}' predicts no expressions, so it has no uncertainty")
        probabilities = prediction.expression.softmax(1)
        return torch.special.entr(probabilities).sum(1) / math.log(probabilities.shape[1])

    def analyze(self, inputs: str | Path | Sequence[str | Path], **options: Any) -> pd.DataFrame:
        """Table of `honne.analysis.analyze` for stills, folders, videos or cameras."""
        from honne.analysis import analyze

        paths = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
        return cast("pd.DataFrame", analyze([str(path) for path in paths], model=cast("str", self), **options))

    def save(self, folder: str | Path, *, metrics: dict[str, Any], card: str, half: bool = False) -> Path:
        """Write the model's folder.

        Args:
            folder: made if missing; files are replaced one by one, the configuration last.
            metrics: figures for `metrics.json`.
            card: text of `card.md`.
            half: store weights in half precision (norm statistics stay in single).
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        entries = {name: _stored(value, half) for name, value in self.network.state_dict().items()}
        with replacing(folder / "model.safetensors") as path:
            save_file(entries, path, metadata={"format": "pt"})
            path.chmod(0o644)  # safetensors makes files that only their owner can read
        weights = sha256(folder / "model.safetensors")
        for name, text in (
            ("metrics.json", json.dumps(metrics, indent=2) + "\n"),
            ("card.md", card),
            (
                "config.yaml",
                yaml.safe_dump(
                    self.config.to_dict() | {"sha256": {"weights": weights, "config": self.config.sha256()}},
                    sort_keys=False,
                    allow_unicode=True,
                ),
            ),
        ):
            with replacing(folder / name) as path:
                path.write_text(text, encoding="utf-8")
        return folder


def _stored(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.half() if half and value.is_floating_point() and value.ndim > 1 else value


def load(model: str | Path = "default", device: str | torch.device = "cpu") -> Model:
    """Load a model by name or folder.

    Args:
        model: `default`, another name of `honne models`, or a folder.
        device: where to put it.

    Raises:
        HonneError: no such model, damaged files, or a file that is not a model.
    """
    folder = _installed().get(str(model), Path(model))
    if folder.is_file():
        raise HonneError(
            f"{folder}: a model is a folder with config.yaml and model.safetensors, not a single file.",
            "Checkpoints of other software (pickles among them) are never loaded directly.",
        )
    for name in ("config.yaml", "model.safetensors"):
        if not (folder / name).is_file():
            raise HonneError(
                f"{model}: no such model (no {name} in {folder}).",
                f"Installed models: {', '.join(_installed()) or 'none'}; or give the folder of a trained one.",
            )
    try:
        values = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        hashes = values.pop("sha256")
        config = ModelConfig.from_dict(values)
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise HonneError(f"{folder / 'config.yaml'}: not a model configuration ({error}).", _DAMAGED) from error
    weights = sha256(folder / "model.safetensors")
    for name, found in (("config", config.sha256()), ("weights", weights)):
        if hashes[name] != found:
            file = "config.yaml" if name == "config" else "model.safetensors"
            raise HonneError(f"{folder / file}: damaged or edited, its hash is not the recorded one.", _DAMAGED)
    network = build(config.network["kind"], config.network["options"], config.labels)
    try:
        network.load_state_dict(
            {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
        )
    except (SafetensorError, RuntimeError) as error:
        raise HonneError(f"{folder / 'model.safetensors'}: does not fit its configuration.", _DAMAGED) from error
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(config, network, folder, weights).to(device)


_DAMAGED = "Copy the model again from where it came."


def device(name: str = "auto") -> torch.device:
    """The device that an option names.

    Args:
        name: auto (a GPU if there is one), cpu, cuda, cuda:1 and so on.

    Raises:
        HonneError: there is no GPU on this machine.
        WrongCall: no such device exists anywhere.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except RuntimeError:
        raise WrongCall(f"--device: '{name}' is not a device.", "Give auto, cpu, cuda or cuda:1.") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise HonneError(f"--device: there is no GPU for '{name}' on this machine.", "Leave --device out.")
    return found


def _installed() -> dict[str, Path]:
    """Name -> folder of the models that the package carries."""
    root = Path(str(resources.files("honne"))) / "bundled"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.yaml"))}


def list_models() -> list[str]:
    """Names of the installed models."""
    return list(_installed())


def models_command(name: str | None = None, *, cite: bool = False) -> None:
    """List the installed models, or show one.

    Args:
        name: of one model, or its folder; unset lists all.
        cite: print what to cite when using the model, as BibTeX.
    """
    if name is None:
        rows = []
        for each in list_models():
            model = load(each)
            figures = json.loads((model.folder / "metrics.json").read_text()) if model.folder else {}
            rows.append(
                (
                    each,
                    model.config.method,
                    len(model.schema.expressions),
                    _figure(figures),
                    model.config.licence.get("weights", ""),
                )
            )
        say(table("Installed models", ("name", "method", "classes", "accuracy", "licence of the weights"), rows))
        return
    model = load(name)
    if cite:
        say("\n\n".join(model.config.cite) or "nothing to cite beyond honne itself")
        return
    card = model.folder / "card.md" if model.folder else None
    say(card.read_text(encoding="utf-8") if card and card.is_file() else yaml.safe_dump(model.config.to_dict()))


def _figure(figures: dict[str, Any]) -> str:
    return f"{figures['accuracy']:.3f} ({figures.get('on', 'validation')})" if "accuracy" in figures else "not stated"
