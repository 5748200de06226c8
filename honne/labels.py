"""The vocabulary: expression sets, action units, valence and arousal.

A `LabelSchema` says what a data set is labelled with, or what a model predicts, by name and in order. Two schemas are
never compared or converted silently: `conversion` says what is merged and what is dropped. The codes that each data
set and tool writes are in `honne.codes`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from honne.codes import ACTION_UNIT_SETS, ALIASES, SETS, UNLABELLED
from honne.codes import ACTION_UNITS as ACTION_UNITS
from honne.errors import HonneError

NOT_LABELLED = -1
"""Class index of a row without an expression label."""


@dataclass(frozen=True)
class LabelSchema:
    """What a data set is labelled with, or what a model predicts.

    Args:
        expressions: class names in output order, canonical spelling; empty when there is no expression task.
        action_units: FACS numbers in output order, e.g. (1, 2, 4, 6, 12).
        valence_arousal: whether valence and arousal, both in [-1, 1], are labelled.
        emotions: names of emotions of which each is present or absent by itself, so that several may be (IEMOCAP).
        sentiment: largest magnitude of the sentiment scale, negative to positive: 3 (MOSI, MOSEI), 1 (SIMS); 0 when
            there is no such task.
    """

    expressions: tuple[str, ...] = ()
    action_units: tuple[int, ...] = ()
    valence_arousal: bool = False
    emotions: tuple[str, ...] = ()
    sentiment: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON and YAML."""
        values: dict[str, Any] = {
            "expressions": list(self.expressions),
            "action_units": list(self.action_units),
            "valence_arousal": self.valence_arousal,
        }
        if self.emotions:  # as it was before there were any: hashes of models must not change
            values["emotions"] = list(self.emotions)
        if self.sentiment:
            values["sentiment"] = self.sentiment
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LabelSchema:
        """The inverse of `to_dict`."""
        return cls(
            tuple(values.get("expressions", ())),
            tuple(int(unit) for unit in values.get("action_units", ())),
            bool(values.get("valence_arousal", False)),
            tuple(values.get("emotions", ())),
            float(values.get("sentiment", 0.0)),
        )

    def require_same(self, other: LabelSchema, this: str = "this", that: str = "the other") -> None:
        """Raise `HonneError` saying what differs unless both schemas are the same, order included."""
        for task, mine, theirs in (
            ("expressions", self.expressions, other.expressions),
            ("action units", self.action_units, other.action_units),
            ("valence/arousal", self.valence_arousal, other.valence_arousal),
            ("emotions", self.emotions, other.emotions),
            ("sentiment", self.sentiment, other.sentiment),
        ):
            if mine != theirs:
                raise HonneError(
                    f"{this} and {that} have different label schemas: {task} {_show(mine)} against {_show(theirs)}.",
                    "Convert explicitly: --merge or --drop of `honne evaluate`, `honne.labels.conversion` in Python.",
                )


def union(
    schemas: Sequence[LabelSchema],
    expressions: Sequence[str] | None = None,
    action_units: Sequence[int] | None = None,
) -> LabelSchema:
    """Everything that any of several data sets is labelled with, in the order of their first mention.

    Args:
        schemas: of the data sets.
        expressions: the classes instead, canonical names; empty = no such task.
        action_units: FACS numbers instead; empty = no such task.

    Raises:
        HonneError: a class or unit is asked for that no data set labels, or sentiment has different scales.

    Example:
        >>> union([LabelSchema(("neutral",)), LabelSchema((), (1, 2)), LabelSchema((), (2, 4), True)]).action_units
        (1, 2, 4)
    """
    classes = tuple(dict.fromkeys(name for each in schemas for name in each.expressions))
    units = tuple(dict.fromkeys(unit for each in schemas for unit in each.action_units))
    for kind, wanted, found in (("expression", expressions, classes), ("action unit", action_units, units)):
        if missing := [entry for entry in wanted or () if entry not in found]:
            raise HonneError(
                f"{kind} {missing[0]} is in none of the data sets ({', '.join(map(str, found)) or 'there are none'}).",
                "Leave it out, or add data that have it.",
            )
    scales = {each.sentiment for each in schemas if each.sentiment}
    if len(scales) > 1:
        raise HonneError(
            f"sentiment has different scales in the data sets ({', '.join(f'{scale:g}' for scale in sorted(scales))}).",
            "Train on data sets of one scale.",
        )
    return LabelSchema(
        classes if expressions is None else tuple(expressions),
        units if action_units is None else tuple(action_units),
        any(each.valence_arousal for each in schemas),
        tuple(dict.fromkeys(name for each in schemas for name in each.emotions)),
        scales.pop() if scales else 0.0,
    )


def _show(value: Sequence[Any] | bool | float) -> str:
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, tuple) else str(value).lower()


# --- expression sets ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExpressionSet:
    """One way of coding expressions, as a data set or a tool writes it.

    Attributes:
        name: e.g. "rafdb".
        codes: native code -> canonical class name, in native order, which is the class order of the schema.
        unlabelled: native codes that mean "no expression label".
    """

    name: str
    codes: Mapping[str, str]
    unlabelled: tuple[str, ...] = ()

    @property
    def expressions(self) -> tuple[str, ...]:
        """Canonical class names in native order."""
        return tuple(self.codes.values())

    @cached_property
    def _readings(self) -> dict[str, str | None]:
        readings: dict[str, str | None] = {alias: name for alias, name in ALIASES.items() if name in self.expressions}
        readings |= {name: name for name in self.expressions}
        readings |= {_plain(code): None for code in self.unlabelled}
        return readings | {_plain(code): name for code, name in self.codes.items()}

    def parse(self, text: str | int | float) -> str | None:
        """Canonical class name of a native code, or of a class name in any usual spelling; None for "no label".

        Raises:
            HonneError: neither a code nor a name of this set.
        """
        try:
            return self._readings[_plain(text)]
        except KeyError:
            near = difflib.get_close_matches(_plain(text), self._readings, 1)
            raise HonneError(
                f"'{text}' is not an expression of '{self.name}' ({_listing(self.codes)}).",
                f"Did you mean '{near[0]}'?" if near else "",
            ) from None


def _plain(text: str | int | float) -> str:
    """'Happy ', '03' and 3.0 as they stand in the tables: 'happy', '3', '3'."""
    text = str(text).strip().lower()
    return str(int(float(text))) if re.fullmatch(r"-?\d+(\.0+)?", text) else text


def _listing(codes: Mapping[str, str]) -> str:
    return ", ".join(name if _plain(code) == name else f"{code} {name}" for code, name in codes.items())


EXPRESSION_SETS: dict[str, ExpressionSet] = {
    name: ExpressionSet(name, codes, UNLABELLED.get(name, ())) for name, codes in SETS.items()
}
"""Every coding that honne knows, by name."""


def expression_set(name: str) -> ExpressionSet:
    """The registered set of that name, or a set of your own from class names separated by commas.

    Example:
        >>> expression_set("rafdb").expressions[:3]
        ('surprise', 'fear', 'disgust')
        >>> expression_set("neutral, pain").expressions
        ('neutral', 'pain')

    Raises:
        HonneError: no set has that name.
    """
    if "," in name:
        names = [canonical(part) for part in name.split(",") if part.strip()]
        if len(set(names)) < len(names):
            raise HonneError(f"'{name}' names a class twice.", "Name every class once.")
        return ExpressionSet("of your own", {part: part for part in names})
    if name in EXPRESSION_SETS:
        return EXPRESSION_SETS[name]
    near = difflib.get_close_matches(name, EXPRESSION_SETS, 1)
    raise HonneError(
        f"'{name}' is not an expression set ({', '.join(sorted(EXPRESSION_SETS))}).",
        f"Did you mean '{near[0]}'?" if near else "For classes of your own give their names: 'neutral,pain'.",
    )


def canonical(name: str) -> str:
    """The spelling honne uses: 'Happy', 'joy' and 'hap' are 'happiness'; unknown names are only lower-cased."""
    return ALIASES.get(_plain(name), _plain(name))


def parse_expression(text: str | int | float, expressions: ExpressionSet | str) -> str | None:
    """`ExpressionSet.parse` for a set or the name of one.

    Example:
        >>> parse_expression("4", "rafdb"), parse_expression("Happy", "rafdb"), parse_expression(-1, "abaw")
        ('happiness', 'happiness', None)
    """
    return (expression_set(expressions) if isinstance(expressions, str) else expressions).parse(text)


def known_set(labels: Iterable[str], where: str = "the labels") -> ExpressionSet:
    """The set of the classes that some labels name in usual spellings, in honne's order.

    Example:
        >>> known_set(["sad", "Joy"]).expressions
        ('happiness', 'sadness')

    Raises:
        HonneError: a label is a code, or a name that honne does not know.
    """
    found = set()
    for label in labels:
        if _plain(label) not in ALIASES:
            raise HonneError(
                f"{where}: '{label}' is not the name of an expression that honne knows.",
                "Say what the labels are: --label-set rafdb (or another set), or --label-set neutral,pain (your own).",
            )
        found.add(canonical(label))
    names = [name for name in dict.fromkeys(ALIASES.values()) if name in found]
    return ExpressionSet("the usual names", {name: name for name in names})


# --- action units ------------------------------------------------------------------------------------------------


def parse_action_unit(text: str | int) -> int:
    """FACS number of 'AU12', 'au_12', 'AU06_r', '12' or 12.

    Raises:
        HonneError: not an action unit that honne knows.
    """
    match = re.fullmatch(r"(?:au)?[ _-]?0*(\d+)(?:_[rc])?", str(text).strip().lower())
    if not match or int(match[1]) not in ACTION_UNITS:
        raise HonneError(
            f"'{text}' is not an action unit that honne knows ({', '.join(map(str, ACTION_UNITS))}).",
            "Write FACS numbers, like AU12 or 12.",
        )
    return int(match[1])


def action_unit_set(text: str) -> tuple[int, ...]:
    """The registered set of that name, or FACS numbers separated by commas.

    Example:
        >>> action_unit_set("affwild2"), action_unit_set("AU12, 25")
        ((1, 2, 4, 6, 12, 15, 20, 25), (12, 25))

    Raises:
        HonneError: no set has that name, or one is no action unit.
    """
    if text in ACTION_UNIT_SETS:
        return ACTION_UNIT_SETS[text]
    if re.search(r"\d", text):
        units = tuple(parse_action_unit(part) for part in text.split(",") if part.strip())
        if len(set(units)) == len(units):
            return units
        raise HonneError(f"'{text}' names an action unit twice.", "Name every one once.")
    near = difflib.get_close_matches(text, ACTION_UNIT_SETS, 1)
    raise HonneError(
        f"'{text}' is not a set of action units ({', '.join(ACTION_UNIT_SETS)}).",
        f"Did you mean '{near[0]}'?" if near else "For units of your own give their numbers: '1,2,12'.",
    )


def select_action_units(values: np.ndarray, source: Sequence[int], target: Sequence[int]) -> np.ndarray:
    """(N, len(source)) action units brought to the order of `target`; NaN where the source does not code one."""
    selected = np.full((len(values), len(target)), np.nan, np.result_type(values, np.float32))
    for column, unit in enumerate(target):
        if unit in source:
            selected[:, column] = values[:, list(source).index(unit)]
    return selected


# --- conversion --------------------------------------------------------------------------------------------------

Expressions = LabelSchema | ExpressionSet | str | Sequence[str]


@dataclass(frozen=True)
class Conversion:
    """How classes of one set become classes of another.

    Attributes:
        source: class names converted from.
        target: class names converted to.
        index: for every source class the target index, or `NOT_LABELLED` where it is dropped.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    index: tuple[int, ...]

    @property
    def merged(self) -> dict[str, tuple[str, ...]]:
        """Target class -> the source classes that become it, where their name changes."""
        become = [(old, self.target[k]) for old, k in zip(self.source, self.index, strict=True) if k != NOT_LABELLED]
        parts = {name: tuple(old for old, new in become if new == name) for name in self.target}
        return {name: sources for name, sources in parts.items() if sources not in ((), (name,))}

    @property
    def dropped(self) -> tuple[str, ...]:
        """Source classes without a place in the target: their rows become "not labelled"."""
        return tuple(name for name, i in zip(self.source, self.index, strict=True) if i == NOT_LABELLED)

    @property
    def never_filled(self) -> tuple[str, ...]:
        """Target classes that no source class becomes."""
        return tuple(name for k, name in enumerate(self.target) if k not in self.index)

    def describe(self) -> str:
        """One sentence for a log or a card."""
        parts = [f"{' + '.join(sources)} -> {name}" for name, sources in self.merged.items()]
        parts += [f"{name} dropped" for name in self.dropped]
        parts += [f"{name} never occurs" for name in self.never_filled]
        return "; ".join(parts) or ("same classes" + ("" if self.source == self.target else ", other order"))

    def apply(self, labels: np.ndarray) -> np.ndarray:
        """(N,) class indices of the source -> of the target; dropped classes and `NOT_LABELLED` give `NOT_LABELLED`."""
        return np.append(np.array(self.index, np.int64), NOT_LABELLED)[labels]

    def apply_votes(self, votes: np.ndarray) -> np.ndarray:
        """(N, source classes) counts -> (N, target classes): merged columns are added, dropped ones go."""
        kept = [i for i, k in enumerate(self.index) if k != NOT_LABELLED]
        converted = np.zeros((len(votes), len(self.target)), votes.dtype)
        np.add.at(converted.T, np.array([self.index[i] for i in kept], int), votes.T[kept])
        return converted

    def apply_distribution(self, distribution: np.ndarray) -> np.ndarray:
        """`apply_votes`, rows scaled to sum 1 again; NaN rows where everything was dropped."""
        converted = self.apply_votes(np.asarray(distribution, np.result_type(distribution, np.float32)))
        total = converted.sum(1, keepdims=True)
        return np.divide(converted, total, out=np.full_like(converted, np.nan), where=total > 0)


def conversion(
    source: Expressions, target: Expressions, *, merge: Mapping[str, str] | None = None, drop: Iterable[str] = ()
) -> Conversion:
    """Build the conversion between two sets of expressions. Classes of the same name become each other.

    Args:
        source: schema, set, name of a set, or class names.
        target: the same.
        merge: source class -> target class, for classes that change their name or go together.
        drop: source classes to give up; their rows become "not labelled".

    Raises:
        HonneError: a source class would be lost without being named in `merge` or `drop`, or a name is in neither set.

    Example:
        >>> conversion("ferplus", "rafdb", merge={"contempt": "disgust"}).describe()
        'disgust + contempt -> disgust'
    """
    old, new = _names(source), _names(target)
    merge = {canonical(name): canonical(into) for name, into in (merge or {}).items()}
    drop = {canonical(name) for name in drop}
    for name, among in [(n, old) for n in (*merge, *sorted(drop))] + [(n, new) for n in merge.values()]:
        if name not in among:
            raise HonneError(f"'{name}' is not one of {_show(among)}.", "Check the names given to merge and drop.")
    if both := drop & set(merge):
        raise HonneError(f"'{min(both)}' is named in both merge and drop.", "Decide for one.")
    lost = [name for name in old if name not in new and name not in merge and name not in drop]
    if lost:
        raise HonneError(
            f"converting {_show(old)} to {_show(new)} would lose {', '.join(lost)}.",
            f"Say what becomes of it: merge={{'{lost[0]}': '...'}} or drop=['{lost[0]}'].",
        )
    index = tuple(NOT_LABELLED if name in drop else new.index(merge.get(name, name)) for name in old)
    return Conversion(old, new, index)


def _names(expressions: Expressions) -> tuple[str, ...]:
    if isinstance(expressions, str):
        expressions = expression_set(expressions)
    if isinstance(expressions, (LabelSchema, ExpressionSet)):
        return expressions.expressions
    return tuple(canonical(name) for name in expressions)
