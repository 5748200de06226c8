"""What is known of every synthetic face: expression, action units, valence and arousal, voters, stratum, camera.

The codebook below is the usual one (which action units an expression shows), with the intensities that make a drawn
face easy to name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from honne.data.world.geometry import ACTION_UNITS, TRAITS, face_points, project
from honne.data.world.options import World

CODEBOOK: dict[str, dict[int, float]] = {
    "neutral": {},
    "happiness": {6: 4.0, 12: 4.5, 25: 4.0},
    "surprise": {1: 4.5, 2: 4.5, 5: 4.0, 25: 3.0, 26: 4.5},
    "sadness": {1: 4.5, 4: 2.5, 6: 1.0, 15: 4.5, 17: 3.0, 43: 1.2},
    "anger": {4: 5.0, 5: 2.5, 7: 3.5, 17: 2.0, 23: 4.0, 24: 2.5},
    "disgust": {4: 2.0, 7: 2.5, 9: 5.0, 10: 4.5, 25: 1.5},
    "fear": {1: 4.5, 2: 2.5, 4: 3.0, 5: 5.0, 20: 4.5, 25: 3.5, 26: 1.8},
    "contempt": {12: 1.5, 14: 3.5},
}
"""Intensities (0..5) at full strength; contempt shows on one half of the face only."""

CIRCUMPLEX: dict[str, tuple[float, float]] = {
    "neutral": (0.0, 0.0),
    "happiness": (0.85, 0.45),
    "surprise": (0.15, 0.85),
    "sadness": (-0.75, -0.45),
    "anger": (-0.60, 0.70),
    "disgust": (-0.70, 0.35),
    "fear": (-0.55, 0.80),
    "contempt": (-0.50, 0.15),
}
"""Valence and arousal of each expression at full strength."""

CONFUSED: dict[str, tuple[str, ...]] = {
    "neutral": ("sadness", "contempt"),
    "happiness": ("surprise", "neutral"),
    "surprise": ("fear", "happiness"),
    "sadness": ("neutral", "fear"),
    "anger": ("disgust", "neutral"),
    "disgust": ("anger", "sadness"),
    "fear": ("surprise", "sadness"),
    "contempt": ("neutral", "happiness"),
}
"""What each expression is mixed with, the likeliest first."""

PRESENT = 1.0
"""Intensity from which an action unit counts as present."""

SKIN = np.array([[250, 222, 200], [240, 200, 170], [215, 168, 130], [178, 124, 86], [134, 88, 60], [92, 60, 44]]) / 255
HAIR = np.array([[28, 22, 20], [62, 40, 26], [110, 70, 40], [186, 140, 80], [150, 60, 30], [150, 150, 152]]) / 255
IRISES = np.array([[70, 42, 24], [96, 66, 36], [70, 110, 150], [80, 120, 80]]) / 255


@dataclass
class Truth:
    """Everything known of N synthetic faces, whatever a manifest shows of it.

    Attributes:
        split: (N,) "train", "valid" or "test".
        subject: (N,) identity number; no identity is in two splits.
        video: (N,) number of the short sequence a face belongs to; a still is a sequence of one.
        time: (N,) seconds since that sequence began.
        domain: (N,) camera style, 0..domains-1.
        mixture: (N, C) share of each expression, rows sum to 1.
        expression: (N,) class with the largest share of the sequence's apex (stills) or of this moment (sequences).
        votes: (N, C) what `voters` observers said.
        label: (N,) class that the data set claims; differs from `expression` by annotation and label noise.
        strength: (N,) how strongly the face shows it, about 0.7..1.1.
        intensities: (N, 20) action units in the order of `ACTION_UNITS`, 0..5.
        valence_arousal: (N, 2).
        skew: (N,) asymmetry, -1..1.
        pose: (N, 3) yaw, pitch, roll in degrees.
        points: (N, 92, 2) px; the first 68 are the landmarks.
        scale: (N,) px per half face width.
        seen: (N,) random number 0..1 of a face, for the drawing (light, background).
        people: appearance of each identity.
    """

    split: np.ndarray
    subject: np.ndarray
    video: np.ndarray
    time: np.ndarray
    domain: np.ndarray
    mixture: np.ndarray
    expression: np.ndarray
    votes: np.ndarray
    label: np.ndarray
    strength: np.ndarray
    intensities: np.ndarray
    valence_arousal: np.ndarray
    skew: np.ndarray
    pose: np.ndarray
    points: np.ndarray
    scale: np.ndarray
    seen: np.ndarray
    people: People

    def __len__(self) -> int:
        return len(self.split)


@dataclass
class People:
    """Appearance of P identities.

    Attributes:
        traits: (P, 10) face shape, see `geometry.TRAITS`.
        skin, hair, iris, lips, shirt: (P, 3) colours in [0, 1].
        brow: (P,) brow thickness in half face widths.
        style: (P,) hair: 0 bald, 1 short, 2 fringe, 3 long.
    """

    traits: np.ndarray
    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    lips: np.ndarray
    shirt: np.ndarray
    brow: np.ndarray
    style: np.ndarray


def sample_people(count: int, random: np.random.Generator) -> People:
    """Draw identities."""
    tone = random.random(count) * (len(SKIN) - 1)
    low = tone.astype(int)
    skin = SKIN[low] + (tone - low)[:, None] * (SKIN[np.minimum(low + 1, len(SKIN) - 1)] - SKIN[low])
    skin = np.clip(skin + random.normal(0, 0.012, (count, 3)), 0, 1)
    # dark skin goes with dark hair more often than not; any pairing is possible
    shade = np.where(random.random(count) < tone / 3, 0, random.integers(0, len(HAIR), count))
    red = random.uniform(0.1, 1.0, (count, 1))
    lips = skin * (1 - red * np.array([0.12, 0.38, 0.36])) * 0.94 + np.array([0.03, 0.0, 0.01])
    return People(
        traits=np.clip(random.normal(0, 0.8, (count, len(TRAITS))), -1.8, 1.8),
        skin=skin,
        hair=np.clip(HAIR[shade] + random.normal(0, 0.02, (count, 3)), 0, 1),
        iris=IRISES[random.integers(0, len(IRISES), count)],
        lips=np.clip(lips, 0, 1),
        shirt=random.uniform(0.15, 0.85, (count, 3)),
        brow=random.uniform(0.055, 0.105, count),
        style=random.choice(4, count, p=[0.08, 0.36, 0.24, 0.32]),
    )


def domain_shares(options: World, split: str) -> np.ndarray:
    """How likely each stratum is for each class.

    Args:
        options: of the world; `bias`, `pattern`, `fold` and `test_domains` matter.
        split: "train", "valid" or "test".

    Returns:
        (C, K), rows sum to 1.
    """
    classes, strata = len(options.classes), options.domains
    own = np.zeros((classes, strata))
    own[np.arange(classes), (np.arange(classes) + options.fold) % strata] = 1
    even = np.full((classes, strata), 1 / strata)
    if strata == 1:
        return even
    other = (1 - own) / (strata - 1)
    usual, unusual = (own, other) if options.pattern == "paired" else (other, own)
    if split != "test":
        return options.bias * usual + (1 - options.bias) * even
    return even if options.test_domains == "even" else unusual


def sample(options: World) -> Truth:
    """Draw everything that is known of the faces of a world.

    Args:
        options: of the world.

    Returns:
        `Truth` of about `options.n` faces (a whole number of sequences), grouped by split.
    """
    random = np.random.default_rng(options.seed)
    frames = options.frames
    videos = max(options.n // frames, 1)
    people = sample_people(options.subjects, random)
    split_of = _split_subjects(options, random)
    subject = _even(np.arange(options.subjects), videos, random)
    subject = subject[np.argsort([("train", "valid", "test").index(name) for name in split_of[subject]], kind="stable")]
    split = split_of[subject]
    main = np.concatenate([_even(np.arange(len(options.classes)), int((split == name).sum()), random)
                           for name in ("train", "valid", "test")])  # fmt: skip
    shares = {name: domain_shares(options, name).cumsum(1) for name in ("train", "valid", "test")}
    limits = np.stack([shares[name][label] for name, label in zip(split, main, strict=True)])
    domain = (random.random((videos, 1)) > limits[:, :-1]).sum(1)

    apex = _mixtures(options, main, random)
    video = np.repeat(np.arange(videos), frames)
    moment = np.tile(np.arange(frames), videos)
    envelope = _envelope(options, videos, random)[video, moment]
    mixture = apex[video] * envelope[:, None]
    mixture[:, options.classes.index("neutral")] += 1 - envelope
    shown = np.where(envelope == 1, main[video], mixture.argmax(1))

    strength = random.uniform(0.75, 1.1, videos)[video]
    intensities = _intensities(options, mixture * strength[:, None], video, random)
    circumplex = np.array([CIRCUMPLEX[name] for name in options.classes])
    valence_arousal = np.clip(
        mixture @ circumplex * strength[:, None] + random.normal(0, 0.03, (videos, 2))[video], -1, 1
    )
    skew = random.normal(0, 0.12, videos)[video]
    if "contempt" in options.classes:
        side = random.choice([-1, 1], videos)[video]
        skew += side * mixture[:, options.classes.index("contempt")]
    skew = np.clip(skew, -1, 1)

    pose = _poses(options, videos, random)[video, moment]
    scale = options.size * random.uniform(0.325, 0.355, videos)[video]
    centre = options.size * random.uniform((0.48, 0.455), (0.52, 0.495), (videos, 2))[video]
    head = face_points(people.traits[subject[video]], intensities, skew)
    votes = random.multinomial(options.voters, mixture / mixture.sum(1, keepdims=True))
    return Truth(
        split=split[video],
        subject=subject[video],
        video=video,
        time=moment / options.fps,
        domain=domain[video],
        mixture=mixture,
        expression=shown,
        votes=votes,
        label=_labels(options, split[video], mixture, shown, votes, random),
        strength=strength,
        intensities=intensities,
        valence_arousal=valence_arousal,
        skew=skew,
        pose=pose,
        points=project(head, pose, scale, centre),
        scale=scale,
        seen=random.random(videos)[video],
        people=people,
    )


def _even(values: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """(count,) values in random order, each as often as the others, give or take one."""
    return random.permutation(np.resize(random.permutation(values), count))


def _split_subjects(options: World, random: np.random.Generator) -> np.ndarray:
    """(subjects,) split of each identity; every split with a share gets at least one."""
    valid = max(round(options.subjects * options.valid_share), int(options.valid_share > 0))
    test = max(round(options.subjects * options.test_share), int(options.test_share > 0))
    names = ["valid"] * valid + ["test"] * test
    return random.permutation(np.array(["train"] * (options.subjects - len(names)) + names))


def _mixtures(options: World, main: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(V, C) mixtures whose largest share is `main`."""
    classes = options.classes
    second = np.zeros((len(classes), len(classes)))
    for row, name in enumerate(classes):
        rivals = [classes.index(rival) for rival in CONFUSED[name] if rival in classes]
        second[row] = 0.1 / (len(classes) - 1)
        for rival, likely in zip(rivals, (0.6, 0.3), strict=False):
            second[row, rival] += likely
        second[row, row] = 0
    second /= second.sum(1, keepdims=True)
    rival = (random.random((len(main), 1)) > second.cumsum(1)[main][:, :-1]).sum(1)
    share = options.ambiguity * 0.5 * random.random(len(main))
    mixture = np.zeros((len(main), len(classes)))
    rows = np.arange(len(main))
    mixture[rows, main] = 1 - share
    mixture[rows, rival] += share
    return mixture


def _envelope(options: World, videos: int, random: np.random.Generator) -> np.ndarray:
    """(V, T) how much of the apex shows at each moment: smoothly from neutral up, a plateau, and down again."""
    if options.frames == 1:
        return np.ones((videos, 1))
    moment = np.linspace(0, 1, options.frames)
    up, down = random.uniform(0.25, 0.40, (videos, 1)), random.uniform(0.65, 0.80, (videos, 1))
    rise = 0.5 - 0.5 * np.cos(np.pi * np.clip(moment / up, 0, 1))
    fall = 0.5 + 0.5 * np.cos(np.pi * np.clip((moment - down) / (1 - down), 0, 1))
    return np.minimum(rise, fall)


def _intensities(options: World, shown: np.ndarray, video: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(N, 20) action units, 0..5, each person-moment's own way of showing the mixture `shown` (N, C)."""
    codebook = np.array([[CODEBOOK[name].get(unit, 0.0) for unit in ACTION_UNITS] for name in options.classes])
    manner = np.exp(random.normal(0, 0.12, (video[-1] + 1, len(ACTION_UNITS))))
    return np.clip(shown @ codebook * manner[video], 0, 5)


def _poses(options: World, videos: int, random: np.random.Generator) -> np.ndarray:
    """(V, T, 3) yaw, pitch, roll in degrees; pitch and roll range over less than yaw; a slow sway in sequences."""
    reach = options.pose_range * np.array([1.0, 0.5, 0.5])
    start = random.uniform(-1, 1, (videos, 1, 3))
    sway = np.sin(2 * np.pi * (np.linspace(0, 1, options.frames)[:, None] + random.random((videos, 1, 3))))
    return reach * (start if options.frames == 1 else 0.8 * start + 0.2 * sway)


def _labels(
    options: World,
    split: np.ndarray,
    mixture: np.ndarray,
    shown: np.ndarray,
    votes: np.ndarray,
    random: np.random.Generator,
) -> np.ndarray:
    """(N,) claimed classes. Only training rows are ever wrong: what is measured on must be right."""
    if options.annotation == "majority":
        claimed = (votes + 1e-3 * mixture).argmax(1)
    elif options.annotation == "single":
        claimed = (random.random((len(shown), 1)) > mixture.cumsum(1)[:, :-1]).sum(1)
    else:
        claimed = shown
    wrong = random.random(len(shown)) < options.label_noise
    other = (claimed + random.integers(1, len(options.classes), len(shown))) % len(options.classes)
    return np.where(split == "train", np.where(wrong, other, claimed), shown)
