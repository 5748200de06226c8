"""What a model says is to be cited."""

from __future__ import annotations

import re
from typing import Any

import pytest

from honne.citations import CITATIONS, citations


def counterfactual(kind: str) -> dict[str, Any]:
    return {"kind": "counterfactual", "options": {"backbone": {"kind": kind, "options": {}}}}


@pytest.mark.parametrize(
    ("method", "network", "au_cues", "keys"),
    [
        ("causalmer", counterfactual("dmd"), False, ["kim2024causal", "li2023decoupled"]),
        ("causalmer", counterfactual("late_fusion"), False, ["kim2024causal"]),
        ("erm", {"kind": "pmr", "options": {}}, False, ["lv2021progressive"]),
        ("dmue", {"kind": "face", "options": {"backbone": "resnet18"}}, True, ["she2021dmue", "belharbi2024guided"]),
        ("erm", {"kind": "face", "options": {"backbone": "resnet18"}}, False, []),
    ],
)
def test_method_cues_and_fusion_network(method: str, network: dict[str, Any], au_cues: bool, keys: list[str]) -> None:
    assert [re.findall(r"@\w+\{(\w+),", text) for text in citations(method, network, au_cues)] == [
        [key] for key in keys
    ]


def test_entries_are_whole() -> None:
    for text in CITATIONS.values():
        assert text.count("{") == text.count("}")
        assert {"title", "author", "year"} <= set(re.findall(r"^  (\w+) = \{", text, re.MULTILINE))
