"""What is seen: the face that is longest there, described by a honne model of faces, a few times a second."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from honne.batch import Batch
from honne.data.manifest import sha256
from honne.data.transforms import Normalise
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.faces.face import Face
from honne.faces.finders import find_faces
from honne.faces.finders import finder as make_finder
from honne.faces.media import Frame, open_media
from honne.faces.track import Tracker
from honne.features.media import gathered
from honne.features.transcript import Utterance
from honne.networks.stored import Stored

CHUNK = 32  # faces per call of the network, counted from the start of each utterance
SHOWN: dict[str, Any] = {"kind": "face_model", "model": "default", "fps": 5.0, "finder": "mediapipe"}
"""Settings unless told otherwise."""


@dataclass
class _Seen:
    """What was found in one frame."""

    time: float
    faces: list[Face]
    crops: list[np.ndarray]


class Vision:
    """Features of the face that is longest there in each utterance; of faces equally long there, of the largest.

    A step has, in this order: the network's embedding, probabilities of the expressions and of the action units,
    valence and arousal (each as far as the model has them), yaw, pitch and roll over 90 degrees, and 1. A frame
    without the face is a step of zeros.

    Args:
        value: `default`, the folder of a model of faces, or settings.
        folder: of the model, where settings only name it.
        device: where the network is to work.

    Attributes:
        width: features of a step.
        settings: to do exactly the same later; `parts` says what stands where.

    Raises:
        HonneError: no such model, another one, or not a model of faces.
    """

    def __init__(
        self, value: str | Mapping[str, Any], folder: Path | None = None, device: str | torch.device = "cpu"
    ) -> None:
        given = {"model": value} if isinstance(value, str) else dict(value)
        if given.get("kind", "face_model") != "face_model" or (unknown := set(given) - {*SHOWN, "sha256", "parts"}):
            what = f"'{given['kind']}'" if given.get("kind", "face_model") != "face_model" else min(unknown)
            raise HonneError(f"vision: there are no such features ({what}).", "Name `default` or a model of faces.")
        chosen = SHOWN | given
        folder = folder or _folder(str(chosen["model"]))
        stored = Stored.of(folder, "--features.vision")
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        self._require_whole(folder, config, given)
        self.alignment = Alignment.from_dict(config["alignment"])
        self.device, self.labels, self.temperature = torch.device(device), stored.labels, config["temperature"]
        self.network = stored.network().to(self.device)
        self.normalise = Normalise(stored.mean, stored.std).to(self.device)
        self.fps, self._finder = float(chosen["fps"]), make_finder(str(chosen["finder"]))
        try:
            parts = self._parts(np.zeros((1, self.alignment.size, self.alignment.size, 3), np.uint8))
        except (AssertionError, AttributeError):
            raise HonneError(f"{folder}: not a model of faces.", "Name one that was trained on pictures.") from None
        self.width = sum(part.shape[1] for part in parts.values()) + 4
        self.settings = {
            "kind": "face_model",
            "model": config["name"],
            "sha256": _identity(config),
            "fps": self.fps,
            "finder": chosen["finder"],
            "parts": {name: part.shape[1] for name, part in parts.items()} | {"pose": 3, "found": 1},
        }

    def _require_whole(self, folder: Path, config: dict[str, Any], given: dict[str, Any]) -> None:
        if sha256(folder / "model.safetensors") != config["sha256"]["weights"]:
            raise HonneError(
                f"{folder / 'model.safetensors'}: damaged, its hash is not the recorded one.",
                "Copy the model again from where it came.",
            )
        if given.get("sha256", _identity(config)) != _identity(config):
            raise HonneError(
                f"{folder}: not the model '{given['model']}' that the vision features were made with (its sha256 is "
                "another).",
                "Name the very one: --features.vision FOLDER.",
            )

    def utterances(self, clip: Path, utterances: Sequence[Utterance]) -> Iterator[np.ndarray | None]:
        """(T, D) float32 of each utterance of a clip with pictures; None where no face was found.

        Raises:
            HonneError: the pictures are damaged.
        """
        seen = gathered(self._frames(clip), utterances, lambda frame: (frame.time, frame.time + 1e-6), self._look)
        return map(self._described, seen)

    def _frames(self, clip: Path) -> Generator[Frame, None, None]:
        for frame in open_media(clip, self.fps).frames():
            if frame.error is not None:
                raise HonneError(frame.error, "Copy the clip again, or convert it.")
            yield frame

    def _look(self, frame: Frame) -> _Seen:
        assert frame.image is not None
        faces = find_faces(self._finder, "", frame.index, frame.image)
        return _Seen(frame.time, faces, [self.alignment.crop(frame.image, face) for face in faces])

    def _described(self, frames: list[_Seen]) -> np.ndarray | None:
        tracker, times, areas = Tracker(), Counter[int](), Counter[int]()
        numbers = [tracker.update(frame.faces, frame.time) for frame in frames]
        for frame, found in zip(frames, numbers, strict=True):
            times.update(found)
            areas.update({number: float(f.box[2] * f.box[3]) for number, f in zip(found, frame.faces, strict=True)})
        if not times:
            return None
        chosen = max(times, key=lambda number: (times[number], areas[number], -number))
        steps = [step for step, found in enumerate(numbers) if chosen in found]
        places = [numbers[step].index(chosen) for step in steps]
        crops = np.stack([frames[step].crops[place] for step, place in zip(steps, places, strict=True)])
        poses = [frames[step].faces[place].pose for step, place in zip(steps, places, strict=True)]
        features = np.zeros((len(frames), self.width), np.float32)
        said = [list(self._parts(crops[i : i + CHUNK]).values()) for i in range(0, len(crops), CHUNK)]
        features[steps, :-4] = np.concatenate([np.concatenate(chunk, 1) for chunk in said])
        features[steps, -4:-1] = [np.zeros(3) if pose is None else np.asarray(pose) / 90 for pose in poses]
        features[steps, -1] = 1
        return np.nan_to_num(features, posinf=0, neginf=0)

    @torch.inference_mode()
    def _parts(self, crops: np.ndarray) -> dict[str, np.ndarray]:
        """Name -> (N, K) of what the network says of (N, S, S, 3) uint8 crops."""
        images = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))).to(self.device)
        said = self.network(Batch(images=self.normalise(images)))
        parts: dict[str, Tensor | None] = {
            "embedding": said.features,
            "expressions": None if said.expression is None else (said.expression / self.temperature).softmax(1),
            "action_units": None if said.action_units is None else said.action_units.sigmoid(),
            "valence_arousal": said.valence_arousal,
        }
        return {name: part.flatten(1).float().cpu().numpy() for name, part in parts.items() if part is not None}


def _folder(model: str) -> Path:
    bundled = Path(str(resources.files("honne"))) / "bundled" / model
    if model and (bundled / "config.yaml").is_file():
        return bundled
    if not Path(model).is_dir():
        raise HonneError(
            f"vision: the model '{model}' that the features are made with is not there.",
            "Say where it is: --features.vision FOLDER.",
        )
    return Path(model)


def _identity(config: dict[str, Any]) -> str:
    """Digest of weights and configuration together, as `honne.models.Model.sha256`."""
    hashes = config["sha256"]
    return hashlib.sha256((hashes["weights"] + hashes["config"]).encode()).hexdigest()
