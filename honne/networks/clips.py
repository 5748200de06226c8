"""Sequences of faces: features of each frame, and over them a recurrent layer per task.

Source: Deng, Chen, Shi, "Multitask Emotion Recognition with Incomplete Labels", FG 2020, and their released code
(CNN-RNN).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from honne.batch import Batch, Prediction
from honne.errors import HonneError
from honne.labels import LabelSchema
from honne.networks.affect_bins import BinValues, affect
from honne.networks.affect_bins import bin_values as values_of_bins
from honne.networks.face import FaceNetwork, task_outputs
from honne.networks.layers import View


class Recurrent(nn.Module):
    """A bidirectional GRU, ReLU, and a linear layer per frame.

    Args:
        width: F of a frame.
        hidden: H of each direction.
        outputs: C.
    """

    def __init__(self, width: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, hidden, batch_first=True, bidirectional=True)
        self.outputs = nn.Linear(2 * hidden, outputs)

    def features(self, windows: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features (W, N, 2 H) of windows of frames (W, N, F).

        Args:
            windows: each with its frames first and its padding last.
            lengths: (W,) frames of each, on the CPU; the rest is padding, never seen. None = all are full.
        """
        # cuDNN's GRU has no backward pass in evaluation mode, which class activation maps need
        mapped = windows.requires_grad and not self.training
        with torch.backends.cudnn.flags(enabled=False) if mapped else nullcontext():
            if lengths is None or bool((lengths == windows.shape[1]).all()):
                return self.gru(windows)[0].relu()
            packed = pack_padded_sequence(windows, lengths, batch_first=True, enforce_sorted=False)
            return pad_packed_sequence(self.gru(packed)[0], True, total_length=windows.shape[1])[0].relu()

    def forward(self, windows: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Outputs (W, N, C); arguments as of `features`."""
        return self.outputs(self.features(windows, lengths))


class ClipNetwork(nn.Module):
    """A network of single faces, and a GRU per task over what it sees of the frames of a window.

    Args:
        schema: what to predict.
        frames: options of the `FaceNetwork` that looks at each frame, or that network itself. Of one with hidden heads
            each GRU takes the features of its own task, else all take the pooled features.
        length: frames in a window.
        hidden: width of the GRUs, per direction.
        valence_arousal_bins, bin_values: as of `FaceNetwork`.
        frozen: `whole`: the network of frames has no gradient, and its BatchNorm and dropout work as in evaluation, in
            training too; `weights`: no gradient, but BatchNorm and dropout as in training, as the released code does;
            `none`: trained along.

    Attributes:
        length: as given.
        width: F of the features of a frame.
        parts: task -> which of them its GRU takes.
    """

    bin_values: Tensor | None

    def __init__(
        self,
        schema: LabelSchema,
        frames: dict[str, Any] | FaceNetwork,
        length: int,
        hidden: int = 64,
        valence_arousal_bins: int = 0,
        bin_values: BinValues = "ends",
        frozen: Literal["whole", "weights", "none"] = "whole",
    ) -> None:
        super().__init__()
        network = frames if isinstance(frames, FaceNetwork) else FaceNetwork(schema, **frames)
        self.frames: FaceNetwork | None = network  # None in an ensemble whose members share one
        self.length, self.frozen = length, frozen
        self.parts = network.feature_slices()
        self.width = max((part.stop for part in self.parts.values()), default=0)
        outputs = task_outputs(schema, valence_arousal_bins)
        values = values_of_bins(valence_arousal_bins, bin_values).float() if valence_arousal_bins else None
        self.register_buffer("bin_values", values, persistent=False)
        self.recurrent: Any = nn.ModuleDict(
            {task: Recurrent(part.stop - part.start, hidden, outputs[task]) for task, part in self.parts.items()}
        )
        if frozen != "none":
            network.requires_grad_(False)

    def train(self, mode: bool = True) -> ClipNetwork:
        """As every module's, but for frozen frames."""
        super().train(mode)
        if self.frozen == "whole" and self.frames is not None:
            self.frames.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """(B, F) what the GRUs take of normalised images (B, 3, H, W)."""
        assert self.frames is not None
        return self.frames.task_features(images)

    def views(self) -> list[View]:
        """One: the network of frames; a face alone is a clip of one frame."""
        return [View(self.frames, self)]

    def over_time(self, features: Tensor, clips: Tensor | None = None) -> Prediction:
        """Predictions for R frames, from the windows that they stand in.

        Args:
            features: (R, F) of `features`.
            clips: (W, N) rows of `features` that each window shows in order, -1 where padded, at its end only. None =
                each row is a window of its own.

        Returns:
            Of the R rows; of one in several windows the mean of its logits, of one in none NaN.

        Raises:
            HonneError: features with NaN or infinity, or of another network.
        """
        require_features(features, self.width)
        rows = len(features)
        if clips is None:
            clips = torch.arange(rows, device=features.device)[:, None]
        places = torch.where(clips < 0, rows, clips).flatten()  # padding counts for a row too many
        times = torch.zeros(rows + 1, device=features.device).index_add(0, places, torch.ones_like(places).float())
        lengths = (clips >= 0).sum(1).cpu()
        windows = features[clips.clamp_min(0)]
        seen, said = [], {}
        for task, recurrent in self.recurrent.items():
            found = recurrent.features(windows[..., self.parts[task]], lengths).flatten(0, 1).float()
            total = found.new_zeros(rows + 1, found.shape[1]).index_add(0, places, found)
            seen.append(total[:rows] / times[:rows, None].clamp_min(1))
            # the layer is linear, so this is the mean of the logits
            said[task] = recurrent.outputs(seen[-1]).masked_fill(times[:rows, None] == 0, torch.nan)
        prediction = Prediction(
            expression=said.get("expression"), action_units=said.get("action_units"), features=torch.cat(seen, 1)
        )
        if "valence_arousal" in said:
            prediction.valence_arousal, prediction.valence_arousal_bins = affect(
                said["valence_arousal"], self.bin_values
            )
        return prediction

    def forward(self, batch: Batch) -> Prediction:
        """Predictions for features (B, F), else normalised images (B, 3, H, W), in the windows of the batch."""
        if batch.features is not None:
            return self.over_time(batch.features, batch.clips)
        assert batch.images is not None
        return self.over_time(self.features(batch.images), batch.clips)


def require_features(features: Tensor, width: int) -> None:
    """Refuse features (R, F) with NaN or infinity, or of another width than F.

    Raises:
        HonneError: they are such.
    """
    if features.shape[1:] != (width,):
        raise HonneError(
            f"features of {features.shape[-1]} numbers a frame, but this network takes {width}.",
            "They are of another network; compute them again.",
        )
    finite = features.isfinite().all(1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0, 0])
        raise HonneError(
            f"the features of frame {row} (of {len(features)}, from 0) hold NaN or infinity.",
            "Compute them again; if they stay so, the network of frames is broken: train or import it again.",
        )
