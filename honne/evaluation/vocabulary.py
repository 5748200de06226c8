"""What a model and a data set can be measured on together: the tasks both have, in one vocabulary.

Nothing is matched by guessing. Classes of the same name are the same class, whatever their order; every other
difference has to be resolved by saying what is merged and what is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from honne.errors import HonneError, WrongCall
from honne.labels import Conversion, LabelSchema, canonical, conversion

Units = Literal["same", "common"]
TASKS = tuple(task.name for task in fields(LabelSchema))


@dataclass(frozen=True)
class Vocabulary:
    """What is measured.

    Attributes:
        schema: tasks and classes, in the order of the data.
        labels: from the data's classes to these.
        outputs: from the model's classes to these.
        notes: what was converted or left out, one sentence each.
    """

    schema: LabelSchema
    labels: Conversion
    outputs: Conversion
    notes: tuple[str, ...]


def shared_vocabulary(
    model: LabelSchema, data: LabelSchema, *, merge: str = "", drop: str = "", units: Units = "same"
) -> Vocabulary:
    """The vocabulary in which a model is measured on data.

    Args:
        model: schema of the model.
        data: schema of the data.
        merge: "from:into" pairs, comma between them, applied to the labels of the data and the outputs of the model.
        drop: classes to leave out, comma between them: rows labelled so become unlabelled, outputs are rescaled to
            sum to 1 without them.
        units: `same`: both must code the same action units; `common`: those that both code are measured.

    Raises:
        HonneError: classes, units, emotions or the scale of sentiment differ, or there is no task in common.
        WrongCall: `merge` is not "from:into".
    """
    dropped = [canonical(name) for name in drop.split(",") if name.strip()]
    labels, outputs = _expressions(model.expressions, data.expressions, _pairs(merge), dropped)
    schema = LabelSchema(
        labels.target,
        _action_units(model.action_units, data.action_units, units),
        model.valence_arousal and data.valence_arousal,
        _emotions(model.emotions, data.emotions),
        _sentiment(model.sentiment, data.sentiment),
    )
    if schema == LabelSchema():
        raise HonneError(
            f"The model predicts {_tasks(model)}, the data are labelled with {_tasks(data)}: nothing to measure.",
            "Choose another model or other data.",
        )
    return Vocabulary(schema, labels, outputs, tuple(_notes(model, data, schema, labels, outputs)))


def _pairs(merge: str) -> dict[str, str]:
    pairs = {}
    for text in filter(None, map(str.strip, merge.split(","))):
        source, _, target = text.partition(":")
        if not (source and target):
            raise WrongCall(f"--merge: '{text}' is not of the form from:into.", "For example --merge contempt:disgust.")
        pairs[canonical(source)] = canonical(target)
    return pairs


def _expressions(
    model: tuple[str, ...], data: tuple[str, ...], merge: Mapping[str, str], drop: Sequence[str]
) -> tuple[Conversion, Conversion]:
    """Conversions of the data's classes and of the model's; both to nothing where one of them has no expressions."""
    if not model or not data:
        return conversion((), ()), conversion((), ())
    for name in (*merge, *merge.values(), *drop):
        if name not in model and name not in data:
            raise HonneError(
                f"'{name}', to be merged or dropped, is a class of neither the model nor the data.",
                f"The model has {', '.join(model)}; the data have {', '.join(data)}.",
            )
    kept, given = _converted(data, merge, drop), _converted(model, merge, drop)
    if odd := sorted(set(kept) ^ set(given)):
        owner = "data" if odd[0] in kept else "model"
        raise HonneError(
            f"Model and data have different label schemas: expressions {_listed(given)} against {_listed(kept)}.",
            f"Only the {owner} know{'s' if owner == 'model' else ''} {odd[0]}: say what becomes of it, for example"
            f" --merge {odd[0]}:CLASS or --drop {odd[0]}.",
        )
    return _conversion(data, kept, merge, drop), _conversion(model, kept, merge, drop)


def _converted(names: tuple[str, ...], merge: Mapping[str, str], drop: Sequence[str]) -> tuple[str, ...]:
    """Classes that are left, in the order of `names`; a class made by merging stands where its first part stood."""
    left = [merge.get(name, name) for name in names if name not in drop]
    return tuple(name for name in dict.fromkeys(left) if name not in drop)


def _conversion(
    source: tuple[str, ...], target: tuple[str, ...], merge: Mapping[str, str], drop: Sequence[str]
) -> Conversion:
    own = {name: into for name, into in merge.items() if name in source}
    return conversion(source, target, merge=own, drop=[name for name in drop if name in source])


def _action_units(model: tuple[int, ...], data: tuple[int, ...], units: Units) -> tuple[int, ...]:
    common = tuple(unit for unit in data if unit in model)
    if model and data and units == "same" and set(model) != set(data):
        raise HonneError(
            f"Model and data have different label schemas: action units {_show(model)} against {_show(data)}.",
            f"Measure those that both have ({_show(common)}) with --units common." if common else "None is in both.",
        )
    return common


def _emotions(model: tuple[str, ...], data: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the data, if both have the same."""
    if model and data and set(model) != set(data):
        raise HonneError(
            f"Model and data have different label schemas: emotions {_listed(model)} against {_listed(data)}.",
            "Give a model and data of the same emotions.",
        )
    return data if model else ()


def _sentiment(model: float, data: float) -> float:
    if model and data and model != data:
        raise HonneError(
            "Model and data have different label schemas: sentiment from"
            f" {-model:g} to {model:g} against {-data:g} to {data:g}.",
            "Give a model and data of one scale.",
        )
    return data if model else 0.0


def _notes(
    model: LabelSchema, data: LabelSchema, schema: LabelSchema, labels: Conversion, outputs: Conversion
) -> list[str]:
    notes = [
        f"{side} converted: {each.describe()}."
        for side, each in (("Labels", labels), ("Outputs", outputs))
        if each.merged or each.dropped
    ]
    left = sorted(set(model.action_units) ^ set(data.action_units))
    if left and schema.action_units:
        notes.append(f"Action units not in both and left out: {_show(left)}.")
    if model.action_units and data.action_units and not schema.action_units:
        notes.append("Not measured: action units (none is in both).")
    return notes + [
        f"Not measured: {task.replace('_', ' ')} (only the {'model has' if getattr(model, task) else 'data have'} it)."
        for task in TASKS
        if bool(getattr(model, task)) != bool(getattr(data, task))
    ]


def _show(units: Sequence[int]) -> str:
    return ", ".join(f"AU{unit}" for unit in units)


def _listed(names: Sequence[str]) -> str:
    return f"[{', '.join(names)}]"


def _tasks(schema: LabelSchema) -> str:
    names = [task.replace("_", " ") for task in TASKS if getattr(schema, task)]
    return " and ".join(names) or "nothing"
