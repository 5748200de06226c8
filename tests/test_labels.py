"""Vocabulary: codes, aliases, conversions."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from honne import labels
from honne.codes import ACTION_UNIT_SETS
from honne.errors import HonneError
from honne.labels import (
    ACTION_UNITS,
    EXPRESSION_SETS,
    NOT_LABELLED,
    LabelSchema,
    conversion,
    expression_set,
    known_set,
    parse_action_unit,
    parse_expression,
    select_action_units,
)


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(labels).failed == 0


@pytest.mark.parametrize("name", EXPRESSION_SETS)
def test_every_code_and_name_of_every_set_parses(name: str) -> None:
    codes = EXPRESSION_SETS[name]
    assert len(set(codes.expressions)) == len(codes.expressions)
    for code, expression in codes.codes.items():
        assert codes.parse(code) == codes.parse(f" {code.upper()} ") == codes.parse(expression) == expression
    for code in codes.unlabelled:
        assert codes.parse(code) is None


@pytest.mark.parametrize(
    ("name", "code", "expression"),
    [
        ("fer2013", 0, "anger"),
        ("fer2013", 6, "neutral"),
        ("rafdb", 1, "surprise"),
        ("rafdb", "7", "neutral"),
        ("affectnet8", 2, "sadness"),
        ("affectnet8", 3, "surprise"),
        ("affectnet7", 7, None),
        ("affwild2", -1, None),
        ("abaw", 7.0, "other"),
        ("ravdess", "03", "happiness"),
        ("ckplus", 2, "contempt"),
        ("expw", 3, "happiness"),
        ("cremad", "ANG", "anger"),
        ("sfew", "Happy", "happiness"),
        ("iemocap6", "exc", "excitement"),
        ("meld", "joy", "happiness"),
        ("emotieff8", 1, "contempt"),
        ("pyfeat", 3, "surprise"),
        ("ferplus", "hap", "happiness"),
    ],
)
def test_codes_against_the_sets_documentation(name: str, code: str | float, expression: str | None) -> None:
    assert parse_expression(code, name) == expression


def test_unknown_codes_and_sets_are_refused_with_a_suggestion() -> None:
    with pytest.raises(HonneError, match="'9' is not an expression of 'affwild2'"):
        parse_expression(9, "affwild2")
    with pytest.raises(HonneError, match="Did you mean 'happiness'"):
        parse_expression("hapiness", "rafdb")
    with pytest.raises(HonneError, match="Did you mean 'rafdb'"):
        expression_set("raf-db")
    with pytest.raises(HonneError, match="twice"):
        expression_set("neutral,joy,happy")
    with pytest.raises(HonneError, match="not the name of an expression"):
        known_set(["happy", "1"])


def test_action_units() -> None:
    assert parse_action_unit("AU06_r") == parse_action_unit("au_6") == parse_action_unit(6) == 6
    with pytest.raises(HonneError, match="not an action unit"):
        parse_action_unit("AU99")
    for units in ACTION_UNIT_SETS.values():
        assert set(units) <= set(ACTION_UNITS)
    values = np.array([[1, 0], [0, 1]], np.float32)
    np.testing.assert_array_equal(select_action_units(values, (1, 12), (12, 4, 1)), [[0, np.nan, 1], [1, np.nan, 0]])


def test_conversion_never_loses_a_class_silently() -> None:
    with pytest.raises(HonneError, match="would lose contempt"):
        conversion("ferplus", "rafdb")
    dropped = conversion("ferplus", "rafdb", drop=["contempt"])
    merged = conversion("ferplus", "rafdb", merge={"contempt": "disgust"})
    assert (dropped.dropped, dropped.merged, dropped.describe()) == (("contempt",), {}, "contempt dropped")
    assert (merged.dropped, merged.merged) == ((), {"disgust": ("disgust", "contempt")})
    assert conversion("rafdb", "ferplus").never_filled == ("contempt",)
    assert conversion("ferplus", "ferplus").describe() == "same classes"


def test_conversion_refuses_wrong_names() -> None:
    for wrong in ({"merge": {"calm": "neutral"}}, {"merge": {"contempt": "calm"}}, {"drop": ["calm"]}):
        with pytest.raises(HonneError, match="'calm' is not one of"):
            conversion("ferplus", "rafdb", **wrong)
    with pytest.raises(HonneError, match="both merge and drop"):
        conversion("ferplus", "rafdb", merge={"contempt": "disgust"}, drop=["contempt"])


def test_conversion_of_labels_votes_and_distributions() -> None:
    merged = conversion("ferplus", "rafdb", merge={"contempt": "disgust"})
    assert [merged.target[i] for i in merged.apply(np.arange(8))][-2:] == ["fear", "disgust"]
    assert merged.apply(np.array([NOT_LABELLED])) == NOT_LABELLED
    votes = np.array([[0, 0, 0, 0, 0, 2, 1, 7]])
    assert dict(zip(merged.target, merged.apply_votes(votes)[0], strict=True))["disgust"] == 9
    dropped = conversion("ferplus", "rafdb", drop=["contempt"])
    assert dropped.apply(np.array([7])) == NOT_LABELLED
    np.testing.assert_allclose(dropped.apply_distribution(votes / 10).sum(1), 1)
    only_contempt = np.eye(8)[[7]]
    assert np.isnan(dropped.apply_distribution(only_contempt)).all()


@given(st.permutations(EXPRESSION_SETS["ferplus"].expressions), st.lists(st.integers(0, 9), min_size=8, max_size=8))
def test_reordering_there_and_back_changes_nothing(order: list[str], votes: list[int]) -> None:
    there, back = conversion("ferplus", order), conversion(order, "ferplus")
    array = np.array([votes])
    np.testing.assert_array_equal(back.apply_votes(there.apply_votes(array)), array)
    np.testing.assert_array_equal(back.apply(there.apply(np.arange(8))), np.arange(8))


def test_schemas_that_differ_are_not_compared() -> None:
    affectnet, ferplus = (LabelSchema(EXPRESSION_SETS[name].expressions) for name in ("affectnet8", "ferplus"))
    with pytest.raises(HonneError, match="different label schemas: expressions"):
        affectnet.require_same(ferplus)
    assert LabelSchema.from_dict(affectnet.to_dict()) == affectnet
