"""The synthetic world: faces with known expression, action units, valence and arousal, voters, bias and landmarks.

    make_world("world", World(n=2000, ambiguity=0.8))      a prepared data set, with `truth.parquet` beside it
    make_sequences("talks", Talks(dominant="text"))        feature sequences of several modalities, the same way

Tests and the demo run on it without any download, and each method is tried where the truth is known. Figures on it say
whether a method works; they say nothing about people.
"""

from honne.data.world.dataset import gallery, label_schema, make_world, read_truth, rows
from honne.data.world.labels import CIRCUMPLEX, CODEBOOK, Truth, sample
from honne.data.world.options import DOMAINS, EXPRESSIONS, World
from honne.data.world.talks import Talks, make_sequences

__all__ = [
    "CIRCUMPLEX",
    "CODEBOOK",
    "DOMAINS",
    "EXPRESSIONS",
    "Talks",
    "Truth",
    "World",
    "gallery",
    "label_schema",
    "make_sequences",
    "make_world",
    "read_truth",
    "rows",
    "sample",
]
