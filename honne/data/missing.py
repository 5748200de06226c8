"""Features that go missing at random, as MMSA drops them (Mao et al., ACL 2022): a robustness protocol."""

from __future__ import annotations

import numpy as np

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
