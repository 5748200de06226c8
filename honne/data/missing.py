"""What goes missing: whole modalities, or steps at random as MMSA drops them (Mao et al., ACL 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from honne.batch import Batch

SEED = 1111
"""MMSA's, for every modality anew."""
UNKNOWN = 100
"""BERT's token for what it does not know."""


def kept_steps(mask: np.ndarray, rate: float, seed: int = SEED) -> np.ndarray:
    """(N, T) bool, whether a step is there and stays.

    Args:
        mask: (N, T) 1 where a step is there, 0 where it is padding.
        rate: share of the steps that goes missing, 0..1.
        seed: of NumPy's legacy generator, whose numbers are the same in every version.
    """
    return (np.random.RandomState(seed).uniform(size=mask.shape) > rate) & (mask != 0)


def without_frames(
    frames: np.ndarray, lengths: np.ndarray, rate: float, seed: int = SEED
) -> tuple[np.ndarray, np.ndarray]:
    """Set frames of audio or vision to zero.

    Args:
        frames: (N, T, D).
        lengths: (N,) steps that are there.
        rate: share that goes missing, 0..1.
        seed: of the draw.

    Returns:
        the frames, and (N, T) bool which of them stayed.
    """
    kept = kept_steps(np.arange(frames.shape[1]) < np.asarray(lengths)[:, None], rate, seed)
    return frames * kept[..., None], kept


def without_tokens(ids: np.ndarray, mask: np.ndarray, rate: float, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Make tokens unknown; a text's first and last always stay.

    Args:
        ids: (N, T) BERT's tokens.
        mask: (N, T) 1 where there is one, 0 where there is padding, at the end.
        rate: share that goes missing, 0..1.
        seed: of the draw.

    Returns:
        the tokens, and (N, T) bool which of them stayed.
    """
    kept = kept_steps(mask, rate, seed)
    there = mask != 0
    kept[:, 0] = kept[np.arange(len(kept)), there.sum(1) - 1] = True
    return np.where(kept, ids, UNKNOWN * there), kept


def without_modalities(batch: Batch, names: Sequence[str], how: Literal["absent", "zeros"] = "absent") -> Batch:
    """A batch of which every sample lacks some modalities.

    Args:
        batch: with sequences.
        names: of the modalities; those that the batch does not have are ignored.
        how: `absent`: length 0; `zeros`: as many steps as before, of zeros, as published.
    """
    sequences = {name: values * 0 if name in names else values for name, values in batch.sequences.items()}
    gone = names if how == "absent" else ()
    lengths = {name: values * 0 if name in gone else values for name, values in batch.lengths.items()}
    return replace(batch, sequences=sequences, lengths=lengths)


def without_steps(batch: Batch, rate: float, seed: int = SEED) -> Batch:
    """A batch of which a share of every modality's steps is zeros; which ones depends on seed and row alone.

    Args:
        batch: with sequences and row numbers.
        rate: share that goes missing, 0..1.
        seed: of the draw.
    """
    assert batch.index is not None
    sequences = {}
    for place, (name, values) in enumerate(batch.sequences.items()):
        steps = values.shape[1]
        drawn = [
            np.random.Generator(np.random.Philox(key=[seed, place], counter=[0, 0, 0, row])).random(steps)
            for row in batch.index.tolist()
        ]
        kept = torch.from_numpy(np.stack(drawn) >= rate).to(values.device)
        sequences[name] = values * kept[:, :, None]
    return replace(batch, sequences=sequences)
