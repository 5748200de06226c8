"""Released models of AU cues become models of ours; foreign, unsafe and wrong ones are refused in a sentence."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import honne
from honne import cli
from honne.batch import Batch
from honne.errors import HonneError, WrongCall
from honne.interop.au_cues import matched, own_names, read
from honne.labels import LabelSchema, expression_set
from honne.networks.face import FaceNetwork

Entries = dict[str, Tensor]
CROPS = np.random.default_rng(0).integers(0, 255, (2, 224, 224, 3), np.uint8)
SCHEMA = LabelSchema(expression_set("au_cues").expressions)
ADL_PLACES = {"layer3.1": "layer3.2", "layer4.1": "layer4.2"}
"""Blocks of a ResNet-18, and where they stand behind a module of attention dropout."""
HEADS = {
    "expression": "fc",
    "expression.layers.0": "fc",
    "expression.layers.1": "fc1",
    "expression.conv": "to_modalities",
}


def theirs(network: FaceNetwork, adl: bool = False) -> dict[str, Entries]:
    """A ResNet's state dict as the original keeps it, part by part."""
    parts: dict[str, Entries] = {"encoder": {}, "classification_head": {}, "segmentation_head": {"x": torch.ones(1)}}
    for key, value in network.state_dict().items():
        part, _, below = key.partition(".")
        if part == "backbone":
            block = below[:8]
            parts["encoder"][ADL_PLACES.get(block, block) + below[8:] if adl else below] = value
        else:
            module, _, kind = key.rpartition(".")
            parts["classification_head"][f"{HEADS[module]}.{kind}"] = value
    return parts


def released(
    root: Path,
    content: Any,
    method: str = "CAM",
    encoder: str = "resnet18",
    aligned: bool = True,
    config: str = "large_maps: false\n",
    dataset: str = "RAF-DB",
) -> Path:
    """A released folder, most of whose settings stand in its names."""
    name = f"{dataset}-{encoder}-{method}-WGAP-cp_best-boxv2_False"
    folder = root / dataset / encoder / "STD_CL" / method / f"align_atten_to_heatmap_{aligned}" / name
    folder.mkdir(parents=True)
    (folder / "config_model.yaml").write_text(config)
    torch.save(content, folder / "model.pt")
    return folder


def network(backbone: str = "resnet18", **options: Any) -> FaceNetwork:
    torch.manual_seed(0)
    made = FaceNetwork(SCHEMA, backbone, **options).eval()
    for key, buffer in made.named_buffers():
        if key.endswith(("mean", "var")):
            torch.nn.init.uniform_(buffer, 0.5, 1.5)
    return made


def same(model: honne.Model, made: FaceNetwork) -> None:
    """Both predict alike."""
    images = model.normalise(torch.from_numpy(CROPS).permute(0, 3, 1, 2))
    with torch.inference_mode():
        wanted = made(Batch(images=images)).expression
    torch.testing.assert_close(model.predict(CROPS).expression, wanted, rtol=1e-4, atol=1e-4)


def test_a_released_model_is_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = network("resnet50")
    folder = released(tmp_path, theirs(made), "GradCAMpp", "resnet50")
    words = ["import", "au_cues", str(folder), "--out", str(tmp_path / "model")]
    assert cli.main(words) == 0, capsys.readouterr().err
    assert "au_cues/rafdb_gradcam_pp_au" in capsys.readouterr().out
    model = honne.load(tmp_path / "model")
    same(model, made)
    config = model.config
    assert config.labels.expressions == ("neutral", "happiness", "surprise", "fear", "anger", "disgust", "sadness")
    assert config.explanation == {
        "map": "gradcam++:released",
        "codebook": "reference",
        "aligned": "5",
        "cue": "action_units",
    }
    assert config.training["published"] == {
        "data": "rafdb",
        "split": "test",
        "accuracy": 0.8914,
        "cam_cos": 0.82,
        "att_cos": 0.87,
        "source": "Belharbi et al., FG 2024, Tables 1 and 2",
    }
    assert (model.alignment.kind, model.alignment.size) == ("points", 224)
    card = (tmp_path / "model/card.md").read_text()
    assert "accuracy 0.8914" in card
    assert "research only" in card


def test_slips_of_the_original_stay_with_its_weights(tmp_path: Path) -> None:
    made = network(head="wildcat", head_options={"lowest": "dropped"})
    folder = released(
        tmp_path, theirs(made), "WILDCAT", aligned=False, config="spatial_pooling: WildCatCLHead\nlarge_maps: no"
    )
    model = read([folder], "wildcat")
    same(model, made)
    assert "aligned" not in model.config.explanation
    assert "published" not in model.config.training  # that row has a ResNet-50


def test_blocks_behind_attention_dropout_are_counted_anew(tmp_path: Path) -> None:
    made = network(head_options={"dense": [6]}, large_maps=True)
    config = "model: {large_maps: true}\n"
    folder = released(tmp_path, theirs(made, adl=True), "ADL", dataset="AffectNet", config=config)
    model = read([folder], "adl")
    same(model, made)
    assert (model.alignment.kind, model.config.network["options"]["attention_dropout"]) == ("none", 0.4)


def test_transformers(tmp_path: Path) -> None:
    made = network("deit_tiny_patch16_224", head="tscam")
    entries = {
        key.removeprefix("backbone.").replace("expression.conv.", "head."): value
        for key, value in made.state_dict().items()
    }
    folder = released(tmp_path, entries, "TSCAM", "deit_tscam_tiny_patch16_224", config="{}")
    model = read([folder], "tscam")
    same(model, made)
    assert model.config.explanation["aligned"] == "last"  # 1, as the original counts: the tokens after the last norm


def test_apvit_is_matched_by_name_and_else_by_order() -> None:
    sizes = {"img_size": 32, "channels": (4, 4, 8), "units": (1, 1, 1), "width": 16, "depth": 2, "heads": 2, "keep": 9}
    own = network("apvit", backbone_options=sizes).state_dict()
    assert len({id(value) for value in own.values()}) == len(own)
    names = {"backbone.trunk.": "extractor.", "backbone.transformer.": "vit.", "expression.": "head.fc."}
    entries = {}
    for key, value in own.items():
        start = next(start for start in names if key.startswith(start))
        key = names[start] + re.sub(r"\.(qkv|proj)\.", r".attn.\1.", key.removeprefix(start))
        entries[key.replace("projection.", "projs.0.")] = value
    found = matched(Path("model.pt"), entries, own)
    assert found.keys() == own.keys()
    assert all(found[key] is own[key] for key in own)

    unnamed = {f"entry.{place}": value for place, value in enumerate(own.values()) if value.ndim}
    found = matched(Path("model.pt"), unnamed, own)
    assert all(found[key] is own[key] for key in found)
    del entries["vit.norm.weight"]
    with pytest.raises(HonneError, match=r"does not fit apvit.* near backbone.transformer.norm.weight"):
        matched(Path("model.pt"), entries, own)


def test_acol_has_two_branches() -> None:
    parts = {
        f"classification_head.classifier_{branch}.{index}.{kind}": torch.zeros(())
        for branch in "AB"
        for index in (0, 3, 6)
        for kind in ("weight", "bias")
    }
    places = {f"expression.{b}.{i}.{kind}" for b in "ab" for i in (0, 2, 4) for kind in ("weight", "bias")}
    assert set(own_names(parts, "acol")) == places


HEAD = {"classification_head": {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}}
STEM = {"encoder": {"conv1.weight": torch.zeros(64, 3, 7, 7)}} | HEAD
EIGHT = {"classification_head": {"fc.weight": torch.zeros(8, 512), "fc.bias": torch.zeros(8)}}
NAN = STEM | {"encoder": {"bn1.weight": torch.full((64,), torch.nan)}}
WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "missing entries": (STEM, {}, r"does not fit resnet18: it lacks encoder.bn1.weight, .* and \d+ more\.\n"),
    "another network": (STEM, {"encoder": "vgg16"}, "encoder 'vgg16' is not one that honne reads"),
    "another method": (STEM, {"method": "SPG"}, "method 'SPG' is not one of cam, wildcat"),
    "another data set": (STEM, {"config": "dataset: CUB\n"}, "dataset 'CUB' is not one of rafdb, affectnet"),
    "unknown pooling": (STEM, {"config": "spatial_pooling: X\n"}, "spatial_pooling 'X' is not one of linear"),
    "not said": (STEM, {"config": "{}"}, r"does not say large_maps, .*\n.*Add the line `large_maps: ...`"),
    "not YAML": (STEM, {"config": "[a"}, "config_model.yaml: not YAML"),
    "not finite": (NAN, {}, "'encoder.bn1.weight' holds values that are not finite"),
    "other classes": (STEM | EIGHT, {}, "has 8 classes, and does not say which"),
    "no head": ({"encoder": STEM["encoder"]}, {}, "has no classification head"),
    "no tensors": ({"encoder": {"epoch": 3}}, {}, "holds no tensors by name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_models_are_refused(tmp_path: Path, case: str) -> None:
    content, changes, sentence = WRONG[case]
    folder = released(tmp_path, content, **changes)
    with pytest.raises(HonneError, match=sentence):
        honne.import_model("au_cues", [folder], tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_wrong_calls(tmp_path: Path) -> None:
    folder = released(tmp_path, STEM)
    with pytest.raises(HonneError, match=r"has 7 classes, but --labels names 8: neutral"):
        read([folder], "model", labels="affectnet8")
    with pytest.raises(WrongCall, match="one folder, 2 were given"):
        read([folder, folder], "model")
    with pytest.raises(HonneError, match=r"has no config_model.yaml.*\n.*innermost folder"):
        read([folder.parent], "model")
    with pytest.raises(WrongCall, match="no option --stem; it takes --labels"):
        honne.import_model("au_cues", [folder], tmp_path / "model", stem="released")


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never run",)


def test_nothing_runs_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tagged = "encoder_name: !!python/object/apply:builtins.print [this must never run]\nlarge_maps: false\n"
    folder = released(tmp_path, {"encoder": RunsCode()}, config=tagged)
    with pytest.raises(HonneError, match="not a file of plain tensors"):
        read([folder], "model")
    (folder / "model.pt").write_bytes(pickle.dumps({"encoder": RunsCode()}, protocol=2))
    with pytest.raises(HonneError, match="not a file of plain tensors"):
        read([folder], "model")
    torch.save(STEM, folder / "model.pt")
    with pytest.raises(HonneError, match=r"encoder '\['this must never run'\]' is not one"):
        read([folder], "model")
    (folder / "config_model.yaml").write_text(
        "!!python/object/new:munch.Munch\ndictitems: {large_maps: false, model: !!python/object:a.B {x: 1}}\n"
    )
    with pytest.raises(HonneError, match="does not fit resnet18"):
        read([folder], "model")
    assert "never run" not in capsys.readouterr().out
