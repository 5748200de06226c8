"""What is said, as vectors: by hashing, from a GloVe file, or by a language model in a folder.

Sources: signed feature hashing: Weinberger et al., ICML 2009; words as sums of their character n-grams: Bojanowski et
al., TACL 2017; GloVe: Pennington et al., EMNLP 2014.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from honne.data.manifest import sha256
from honne.errors import HonneError

HASHED: dict[str, Any] = {"kind": "hash", "width": 300, "shortest": 3, "longest": 5}
"""Settings of `hash`: features of a word, and the lengths of its character n-grams."""
KNOWN_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
"""Files of a language model's folder that decide what it says; their digest names it."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+(?:'[^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text, lower-case: letters and digits, apostrophes inside kept; Chinese and Japanese by character.

    Example:
        >>> words("Don’t forget a jacket, 2 o'clock!")
        ["don't", 'forget', 'a', 'jacket', '2', "o'clock"]
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).replace("’", "'").lower())


class Text:
    """Features of what is said.

    Args:
        value: `hash`, `glove:FILE`, `transformers:FOLDER`, or settings.
        file: the file or folder, where settings only name it.

    Attributes:
        width: features of a step (a word, or a token).
        settings: to do exactly the same later.

    Raises:
        HonneError: no such features, or the file or folder is not there, another one or not what it should be.
    """

    def __init__(self, value: str | Mapping[str, Any], file: Path | None = None) -> None:
        if isinstance(value, str):
            word, _, name = value.partition(":")
            value = {"kind": word} | ({"file": name} if name else {})
        chosen = dict(value)
        kind, named, given = chosen.get("kind"), str(chosen.get("file", "")), file or Path(chosen.get("file", ""))
        self.settings: dict[str, Any]
        if kind == "hash":
            self.settings = HASHED | chosen
            self._vectors: Any = _Hashed(**{name: self.settings[name] for name in ("width", "shortest", "longest")})
        elif kind == "glove" and named:
            _require(given.is_file(), named, "file", "glove:FILE")
            self._vectors = _Glove(given)
            self.settings = {"kind": kind, "file": given.name, "sha256": self._vectors.sha256}
        elif kind == "transformers" and named:
            _require(given.is_dir(), named, "folder", "transformers:FOLDER")
            self._vectors = _LanguageModel(given)
            self.settings = {"kind": kind, "file": given.resolve().name, "sha256": self._vectors.sha256}
        else:
            raise HonneError(
                f"text: there are no such features ('{kind}').", "Choose hash, glove:FILE or transformers:FOLDER."
            )
        if chosen.get("sha256", self.settings.get("sha256")) != self.settings.get("sha256"):
            raise HonneError(
                f"{given}: not the '{named}' that the text features were made with (its sha256 is another).",
                "Name the very one.",
            )
        self.width: int = self._vectors.width
        self.settings |= {"width": self.width}

    def __call__(self, text: str | None) -> np.ndarray | None:
        """(T, D) float32, one step a word (of language models: a token); None without a word."""
        return self._vectors(text) if text and words(text) else None


def _require(there: bool, name: str, what: str, option: str) -> None:
    if not there:
        raise HonneError(
            f"text: the {what} '{name}' that the features are made with is not there.",
            f"Say where it is: --features.text {option}.",
        )


class _Hashed:
    """A word as the signed sum of its character n-grams and itself, of length 1; nothing is learned or looked up."""

    def __init__(self, width: int, shortest: int, longest: int) -> None:
        self.width, self.shortest, self.longest = width, shortest, longest
        self._word = lru_cache(50_000)(self._hashed)

    def __call__(self, text: str) -> np.ndarray:
        return np.stack([self._word(word) for word in words(text)])

    def _hashed(self, word: str) -> np.ndarray:
        vector, marked = np.zeros(self.width, np.float32), f"<{word}>"
        grams = {marked[i : i + n] for n in range(self.shortest, self.longest + 1) for i in range(len(marked) - n + 1)}
        for gram in grams | {marked}:
            number = int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "big")
            vector[(number >> 1) % self.width] += 1 - 2 * (number & 1)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


class _Glove:
    """Vectors of a GloVe text file: `word x1 ... xD` a line.

    Only where each word's line begins is kept in memory (16 bytes a word); unknown words are zeros.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        digest, keys, places, place = hashlib.sha256(), bytearray(), [], 0
        self.width = 0
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                if not self.width and len(line.split()) > 2:  # not the header "words width" that other tools write
                    self.width = len(line.split()) - 1
                keys += _key(line.partition(b" ")[0])
                places.append(place)
                place += len(line)
        if not self.width:
            raise HonneError(f"{path}: not a GloVe file.", "It has a word and its numbers on every line.")
        self.sha256 = digest.hexdigest()
        hashes = np.frombuffer(bytes(keys), np.uint64)
        order = np.argsort(hashes, kind="stable")
        self._keys, self._places = hashes[order], np.array(places, np.int64)[order]
        self._word = lru_cache(50_000)(self._looked_up)

    def __call__(self, text: str) -> np.ndarray:
        return np.stack([self._word(word) for word in words(text)])

    def _looked_up(self, word: str) -> np.ndarray:
        encoded = word.encode()
        key = np.frombuffer(_key(encoded), np.uint64)[0]
        first, end = np.searchsorted(self._keys, key), np.searchsorted(self._keys, key, "right")
        with self.path.open("rb") as file:
            for place in self._places[first:end].tolist():
                file.seek(place)
                found, *numbers = file.readline().rsplit(maxsplit=self.width)
                if found == encoded and len(numbers) == self.width:
                    try:
                        return np.array(numbers, np.float32)
                    except ValueError:
                        raise HonneError(
                            f"{self.path}: the line of '{word}' has something that is not a number.", "Mend the file."
                        ) from None
        return np.zeros(self.width, np.float32)


def _key(word: bytes) -> bytes:
    return hashlib.blake2b(word, digest_size=8).digest()


class _LanguageModel:
    """The last hidden states of a transformer, from a local folder with safetensors; nothing is downloaded."""

    def __init__(self, folder: Path) -> None:
        try:
            import transformers
        except ImportError:
            raise HonneError(
                "text: the features 'transformers' need transformers.", "Install it with: pip install 'honne[text]'"
            ) from None
        options = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokens = transformers.AutoTokenizer.from_pretrained(folder, **options)
            self._model = transformers.AutoModel.from_pretrained(folder, use_safetensors=True, **options).eval()
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise HonneError(
                f"{folder}: not a language model that can be used ({reason}).",
                "It needs config.json, the tokenizer's files and model.safetensors.",
            ) from None
        files = sorted({file for pattern in KNOWN_FILES for file in folder.glob(pattern)})
        lines = "".join(f"{file.name}\0{sha256(file)}\n" for file in files)
        self.sha256 = hashlib.sha256(lines.encode()).hexdigest()
        self.width = int(self._model.config.hidden_size)
        self._longest = int(getattr(self._model.config, "max_position_embeddings", 0) or 512)

    def __call__(self, text: str) -> np.ndarray:
        import torch

        tokens = self._tokens(text, return_tensors="pt", truncation=True, max_length=self._longest)
        with torch.inference_mode():
            hidden: Any = self._model(**tokens).last_hidden_state
        return hidden[0].float().numpy()
