"""The demo end to end on a handful of faces, and the parts of a report."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import honne.demo
from honne.card import RESPONSIBLE_USE
from honne.errors import HonneError
from honne.report import (
    Page,
    bars,
    card,
    confusion,
    facts,
    intervals,
    line_chart,
    paragraph,
    picture,
    reliability,
    table,
)


def _self_contained(page: str) -> None:
    """No resource from anywhere else."""
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)
    assert "url(" not in page
    assert "<script" not in page


@pytest.fixture
def no_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(folder: Path) -> None:
        raise HonneError("Finding faces in photographs needs MediaPipe.", "Install it with: pip install 'honne[face]'")

    monkeypatch.setattr(honne.demo, "analyse", missing)


def test_demo_writes_one_page_and_goes_on(
    tmp_path: Path, no_photograph: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    honne.demo.demo(out, quick=True)
    page = (out / "report.html").read_text(encoding="utf-8")
    _self_contained(page)
    assert RESPONSIBLE_USE in page
    assert "needs MediaPipe" in page
    assert page.count("data:image/jpeg") > 7
    assert str((out / "report.html").resolve()) in capsys.readouterr().out.replace("\n", "")
    weights = (out / "votes" / "model" / "model.safetensors").read_bytes()
    honne.demo.demo(out, quick=True)  # finished runs are kept
    assert (out / "votes" / "model" / "model.safetensors").read_bytes() == weights
    with pytest.raises(HonneError, match="another seed"):
        honne.demo.demo(out, quick=True, seed=1)


def test_a_page_is_safe_and_complete(tmp_path: Path) -> None:
    page = Page("A <b>title</b>", "lead & more")
    page.section("First", paragraph("x < y"), table(["a"], [["<script>"]]), facts({"k": "<i>"}))
    page.section("Second", card(picture(np.zeros((4, 4, 3), np.uint8), 'a "black" square', "caption")))
    written = page.write(tmp_path / "page.html").read_text(encoding="utf-8")
    _self_contained(written)
    assert "A &lt;b&gt;title" in written
    assert "&lt;script&gt;" in written
    assert 'alt="a &quot;black&quot; square"' in written
    assert RESPONSIBLE_USE in written


def test_charts() -> None:
    lines = line_chart({"a": [(1, 0.1), (2, float("nan")), (3, 0.9)], "b": [(1, 0.5)]}, x_label="x", y_label="y")
    assert lines.count("<polyline") == 2
    assert "nan" not in lines
    assert line_chart({"a": [(1, float("nan"))]}, x_label="x", y_label="y") == ""
    bins = [{"low": 0.0, "high": 0.5, "rows": 0, "confidence": float("nan"), "accuracy": float("nan")},
            {"low": 0.5, "high": 1.0, "rows": 9, "confidence": 0.8, "accuracy": 0.7}]  # fmt: skip
    dots = reliability({"m": bins})
    assert dots.count("<circle") == 1
    assert "nan" not in dots
    assert ">75</td>" in confusion([[3, 1], [0, 0]], ["yes", "no"])
    same = {"value": 0.5, "low": 0.5, "high": 0.5}
    assert "nan" not in intervals([same, same])
    assert "--value:25.0" in bars(["a"], [[0.25]])
