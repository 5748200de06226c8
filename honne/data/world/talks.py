"""Feature sequences of text, audio and vision with known causes, for methods that fuse modalities.

Every modality carries some true signal of the expression. One *dominant* modality can carry a spurious cue beside it:
strong, easy to learn, agreeing with the label in training, and lying or random at test time.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from honne import __version__
from honne.data.manifest import DataSchema, PreparedData, write_manifest
from honne.data.sequences import SequenceWriter
from honne.data.world.folders import building
from honne.data.world.labels import CIRCUMPLEX
from honne.data.world.options import EXPRESSIONS
from honne.errors import WrongCall
from honne.labels import LabelSchema


@dataclass(frozen=True)
class Talks:
    """Knobs of the feature sequences.

    Args:
        n: samples in all.
        seed: everything follows from it.
        classes: expressions, canonical names.
        widths: modality -> number of features.
        lengths: modality -> shortest and longest sequence, steps.
        signal: strength of the true cue in each modality; 0 makes a modality pure noise.
        dominant: modality with the spurious cue; empty for none.
        spurious: strength of that cue.
        agreement: share of training and validation samples in which the cue agrees with the label, 0..1.
        at_test: the cue at test time: the "same" as in training, "random", or "reversed" (never right).
        missing: share of samples, drawn for each modality by itself, that lack it, 0..1; one always stays.
        subjects: speakers; each is in one split only.
        valid_share: share of the speakers in the validation split, 0..1.
        test_share: share of the speakers in the test split, 0..1.
    """

    n: int = 1200
    seed: int = 0
    classes: tuple[str, ...] = ("neutral", "happiness", "sadness", "anger")
    widths: dict[str, int] = field(default_factory=lambda: {"text": 32, "audio": 16, "vision": 20})
    lengths: dict[str, tuple[int, int]] = field(
        default_factory=lambda: {"text": (8, 20), "audio": (30, 60), "vision": (20, 40)}
    )
    signal: dict[str, float] = field(default_factory=lambda: {"text": 1.0, "audio": 1.0, "vision": 1.0})
    dominant: str = "text"
    spurious: float = 3.0
    agreement: float = 0.9
    at_test: Literal["same", "random", "reversed"] = "reversed"
    missing: float = 0.0
    subjects: int = 40
    valid_share: float = 0.15
    test_share: float = 0.25

    def __post_init__(self) -> None:
        unknown = [name for name in self.classes if name not in EXPRESSIONS]
        if unknown or len(self.classes) < 2:
            raise WrongCall(f"classes {', '.join(self.classes)}: needs two or more of {', '.join(EXPRESSIONS)}.")
        if set(self.widths) != set(self.lengths) or set(self.widths) != set(self.signal):
            raise WrongCall("widths, lengths and signal must name the same modalities.")
        if self.dominant and self.dominant not in self.widths:
            raise WrongCall(f"dominant '{self.dominant}': not one of {', '.join(self.widths)}.")
        if not self.n >= self.subjects >= 3:
            raise WrongCall(f"subjects {self.subjects}: needs at least 3 and at most n {self.n}.")


def make_sequences(out: str | Path, talks: Talks | None = None) -> PreparedData:
    """Write feature sequences as a prepared data set.

    The manifest has `expression`, `valence` and `arousal`; `domain` says whether the spurious cue agrees with the
    label ("agrees") or not ("lies").

    Args:
        out: folder to write; it must not exist, or be empty.
        talks: knobs; the defaults of `Talks` when left out.

    Raises:
        HonneError: the folder is in use.
    """
    talks, out = talks or Talks(), Path(out)
    random = np.random.default_rng(talks.seed)
    subject, split = _speakers(talks, random)
    label = random.permutation(np.resize(np.arange(len(talks.classes)), talks.n))
    cue = _cues(talks, label, split, random)
    circumplex = np.array([CIRCUMPLEX[name] for name in talks.classes])
    affect = np.clip(
        circumplex[label] * random.uniform(0.6, 1.1, (talks.n, 1)) + random.normal(0, 0.05, (talks.n, 2)), -1, 1
    )
    features = {name: _modality(talks, name, label, affect, cue, random) for name in talks.widths}
    absent = _absent(talks, random)
    table = pd.DataFrame({
        "id": [f"talk-{talks.seed}-{i:06d}" for i in range(talks.n)],
        "split": split,
        "subject": [f"t{talks.seed}s{number:04d}" for number in subject],
        "domain": np.where(cue == label, "agrees", "lies"),
        "expression": np.array(talks.classes)[label],
        "valence": affect[:, 0],
        "arousal": affect[:, 1],
    })  # fmt: skip
    schema = DataSchema(
        name=f"synthetic talks, seed {talks.seed}",
        reader="world",
        labels=LabelSchema(talks.classes, (), True),
        source={"made by": f"honne {__version__}"},
        licence="Apache-2.0 (random numbers; no person is recorded)",
        options=asdict(talks) | {"classes": list(talks.classes)},
        version=__version__,
    )
    with building(out) as folder:
        with SequenceWriter(folder / "sequences", talks.widths) as writer:
            table["sequence"] = [
                writer.add({name: None if absent[m, i] else features[name][i] for m, name in enumerate(talks.widths)})
                for i in range(talks.n)
            ]
        write_manifest(folder, table if talks.dominant else table.drop(columns="domain"), schema)
    return PreparedData(out)


def _speakers(talks: Talks, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(n,) speaker and (n,) split."""
    valid, test = (max(1, round(talks.subjects * share)) for share in (talks.valid_share, talks.test_share))
    names = ["valid"] * valid + ["test"] * test
    splits = random.permutation(np.array(["train"] * (talks.subjects - len(names)) + names))
    subject = np.sort(np.resize(np.arange(talks.subjects), talks.n))
    return subject, splits[subject]


def _cues(talks: Talks, label: np.ndarray, split: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(n,) class that the spurious cue speaks for."""
    wrong = (label + random.integers(1, len(talks.classes), talks.n)) % len(talks.classes)
    cue = np.where(random.random(talks.n) < talks.agreement, label, wrong)
    unlike = {"same": cue, "random": random.integers(0, len(talks.classes), talks.n), "reversed": wrong}
    return np.where(split == "test", unlike[talks.at_test], cue)


def _modality(
    talks: Talks, name: str, label: np.ndarray, affect: np.ndarray, cue: np.ndarray, random: np.random.Generator
) -> list[np.ndarray]:
    """(T, D) features of each sample: noise, a true cue that comes and goes, perhaps a spurious one."""
    width, (short, long) = talks.widths[name], talks.lengths[name]
    true, false = (_directions(len(talks.classes), width, random) for _ in range(2))
    tone = _directions(2, width, random)
    meaning = talks.signal[name] * (true[label] + 0.5 * affect @ tone)
    shortcut = talks.spurious * false[cue] if name == talks.dominant else np.zeros((talks.n, width))
    samples = []
    for i, length in enumerate(random.integers(short, long + 1, talks.n)):
        time, peak = np.linspace(0, 1, length), random.uniform(0.25, 0.75)
        swell = np.exp(-(((time - peak) / 0.2) ** 2))[:, None]
        samples.append(
            (swell * meaning[i] + 0.4 * shortcut[i] + random.normal(0, 0.5, (length, width))).astype(np.float32)
        )
    return samples


def _directions(count: int, width: int, random: np.random.Generator) -> np.ndarray:
    """(count, width) random vectors of length one."""
    vectors = random.normal(size=(count, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _absent(talks: Talks, random: np.random.Generator) -> np.ndarray:
    """(modalities, n) whether a sample lacks a modality; at least one stays."""
    chance = random.random((len(talks.widths), talks.n))
    absent = chance < talks.missing
    absent[chance.argmax(0), np.arange(talks.n)] = False
    return absent
