"""Tables: the codes that data sets and tools write for expressions, and the action units of FACS.

Orders are those of the sets' own documentation. Where a set only has names (folders, CSV cells), these are the codes.
"""

from __future__ import annotations


def _codes(names: str, first: int | None = None, spelled: str = "") -> dict[str, str]:
    """Native code -> class name: numbers from `first`, else the codes `spelled`, else the names themselves."""
    classes = names.split()
    codes = spelled.split() if spelled else classes if first is None else range(first, first + len(classes))
    return {str(code): name for code, name in zip(codes, classes, strict=True)}


_AFFECTNET = "neutral happiness sadness surprise fear disgust anger contempt"
_AFFWILD2 = "neutral anger disgust fear happiness sadness surprise"
_FER2013 = "anger disgust fear happiness sadness surprise neutral"
_ALPHABETIC7 = "anger disgust fear happiness neutral sadness surprise"
_ALPHABETIC8 = "anger contempt disgust fear happiness neutral sadness surprise"

SETS: dict[str, dict[str, str]] = {
    # faces: data sets
    "ferplus": _codes("neutral happiness surprise sadness anger disgust fear contempt"),
    "fer2013": _codes(_FER2013, 0),
    "rafdb": _codes("surprise fear disgust happiness sadness anger neutral", 1),
    "affectnet7": _codes(_AFFECTNET.removesuffix(" contempt"), 0),
    "affectnet8": _codes(_AFFECTNET, 0),
    "au_cues": _codes("neutral happiness surprise fear anger disgust sadness", 0),
    "ckplus": _codes("neutral anger contempt disgust fear happiness sadness surprise", 0),
    "sfew": _codes(_ALPHABETIC7, spelled="Angry Disgust Fear Happy Neutral Sad Surprise"),
    "affwild2": _codes(_AFFWILD2, 0),
    "abaw": _codes(_AFFWILD2 + " other", 0),
    "expw": _codes(_FER2013, 0),
    "caers": _codes(_ALPHABETIC7, spelled="Anger Disgust Fear Happy Neutral Sad Surprise"),
    "jaffe": _codes(_ALPHABETIC7, spelled="AN DI FE HA NE SA SU"),
    "kdef": _codes("fear anger disgust happiness neutral sadness surprise", spelled="AF AN DI HA NE SA SU"),
    "oulucasia": _codes("anger disgust fear happiness sadness surprise"),
    "dfew": _codes("happiness sadness neutral anger surprise disgust fear", 1),
    "ferv39k": _codes(_ALPHABETIC7, spelled="Angry Disgust Fear Happy Neutral Sad Surprise"),
    "mafw": _codes(
        "anger disgust fear happiness neutral sadness surprise contempt anxiety helplessness disappointment", 1
    ),
    # speech, text and several modalities
    "ravdess": _codes("neutral calm happiness sadness anger fear disgust surprise", 1),
    "cremad": _codes("anger disgust fear happiness neutral sadness", spelled="ANG DIS FEA HAP NEU SAD"),
    "iemocap4": _codes("happiness sadness anger neutral", spelled="hap sad ang neu"),
    "iemocap4_mult": _codes("neutral happiness sadness anger", 0),
    "iemocap6": _codes("happiness sadness neutral anger excitement frustration", spelled="hap sad neu ang exc fru"),
    "meld": _codes("neutral surprise fear sadness happiness disgust anger", 0),
    "mer2023": _codes("neutral anger happiness sadness worry surprise"),
    "ekman6": _codes("anger disgust fear happiness sadness surprise"),
    # tools: order of their outputs
    "pyfeat": _codes("neutral happiness sadness surprise fear disgust anger", 0),
    "pyfeat1": _codes("anger disgust fear happiness sadness surprise neutral", 0),
    "openface3": _codes(_AFFECTNET, 0),
    "libreface": _codes(_AFFECTNET, 0),
    "emotieff7": _codes(_ALPHABETIC7, 0),
    "emotieff8": _codes(_ALPHABETIC8, 0),
    "deepface": _codes(_FER2013, 0),
    "faceapi": _codes("neutral happiness sadness anger fear disgust surprise"),
}
"""Set -> {native code: canonical class name}, in native order."""

UNLABELLED: dict[str, tuple[str, ...]] = {
    "affectnet7": ("7", "8", "9", "10"),  # contempt, none, uncertain, no face
    "affectnet8": ("8", "9", "10"),
    "affwild2": ("-1",),
    "abaw": ("-1",),
}
"""Native codes that mean "no label of this set"."""

FERPLUS_APART = ("unknown", "NF")
"""Vote columns of FER+ that are no expressions: "unknown" and "not a face"."""

ALIASES: dict[str, str] = {
    alias: name
    for name, aliases in {
        "neutral": "ne neu neutrality",
        "happiness": "happy ha hap joy joyful smile",
        "surprise": "surprised su sur",
        "sadness": "sad sa",
        "anger": "angry an ang mad",
        "disgust": "disgusted di dis",
        "fear": "fearful afraid scared fe fea af",
        "contempt": "contemptuous co con",
        "other": "others",
        "calm": "calmness",
        "excitement": "excited exc",
        "frustration": "frustrated fru",
        "anxiety": "anxious",
        "helplessness": "helpless",
        "disappointment": "disappointed",
        "worry": "worried",
    }.items()
    for alias in (name, *aliases.split())
}
"""Usual spelling (lower case) -> canonical class name. The order of the names is honne's own order of classes."""

ACTION_UNITS: dict[int, str] = {
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    5: "upper lid raiser",
    6: "cheek raiser",
    7: "lid tightener",
    9: "nose wrinkler",
    10: "upper lip raiser",
    11: "nasolabial deepener",
    12: "lip corner puller",
    13: "sharp lip puller",
    14: "dimpler",
    15: "lip corner depressor",
    16: "lower lip depressor",
    17: "chin raiser",
    18: "lip pucker",
    20: "lip stretcher",
    22: "lip funneler",
    23: "lip tightener",
    24: "lip pressor",
    25: "lips part",
    26: "jaw drop",
    27: "mouth stretch",
    28: "lip suck",
    43: "eyes closed",
    45: "blink",
}
"""FACS number -> name."""

ACTION_UNIT_SETS: dict[str, tuple[int, ...]] = {
    "disfa": (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26),
    "disfa8": (1, 2, 4, 6, 9, 12, 25, 26),
    "bp4d": (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24),
    "affwild2": (1, 2, 4, 6, 12, 15, 20, 25),
    "abaw": (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26),
    "openface2": (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 28, 45),
    "openface3": (1, 2, 4, 6, 9, 12, 25, 26),
    "pyfeat": (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43),
    "au_cues": (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 24, 25, 26, 43, 27, 16),
}
"""Action units that data sets code and tools give, in their order. 2020's Aff-Wild2 has 8, later editions (abaw) 12."""
