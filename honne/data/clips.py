"""Raw clips become feature sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from honne.data.readers import Bad, Row
from honne.errors import HonneError

if TYPE_CHECKING:
    from honne.features import Extractor


@dataclass
class ClipFeatures:
    """Turns rows of clips into rows of sequences; what it cannot use becomes a `Bad`.

    Args:
        features: modality -> name of its features, as `honne.features.Extractor` takes them. Empty = its defaults.
    """

    features: Mapping[str, str] = field(default_factory=dict)
    _extractor: Extractor | None = None  # made in the process that uses it

    @property
    def extractor(self) -> Extractor:
        """What makes the features."""
        if self._extractor is None:
            from honne.features import Extractor  # audio and video libraries

            self._extractor = Extractor(dict(self.features))
        return self._extractor

    def __call__(self, row: Row | Bad) -> Row | Bad:
        """The row with its sequences, without its clip; a `Bad` passes through."""
        if isinstance(row, Bad):
            return row
        where = str(row.clip or row.id)
        try:
            sequences = self.extractor(row.clip, row.text)
        except HonneError as error:
            return Bad(where, "clip without features", error.what)
        if not any(found is not None and len(found) for found in sequences.values()):
            return Bad(where, "clip without features", "of any modality")
        return replace(row, sequences=sequences, clip=None)

    def __getstate__(self) -> dict[str, object]:
        return {"features": self.features, "_extractor": None}
