"""IERN's files become one model that predicts as the original's equations say; training can go on from it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import honne
from honne import building, cli, training
from honne import recipe as recipes
from honne.data.loading import DataModule, open_data
from honne.data.world import World, make_world
from honne.errors import HonneError, WrongCall
from honne.interop import iern
from honne.methods import method
from honne.methods.iern_start import TRAINING, TRAINING_ONLY
from honne.models import Model, ModelConfig

Entries = dict[str, Tensor]
CHANNELS, SIDE = 8, 2
CROPS = np.random.default_rng(0).integers(0, 255, (2, 32 * SIDE, 32 * SIDE, 3), np.uint8)


# --- the original, rebuilt -------------------------------------------------------------------------------------------


def resnet(name: str, channels: int) -> nn.Sequential:
    """A torchvision network without its last two layers, and a 1 x 1 convolution."""
    import torchvision  # honne must come first

    body = getattr(torchvision.models, name)(weights=None)
    width = body.fc.in_features
    return nn.Sequential(*list(body.children())[:-2], nn.Conv2d(width, channels, 1))


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()

        def convolution() -> nn.Module:
            return nn.Conv2d(channels, channels, 3, padding=1, bias=False)

        self.conv_block = nn.Sequential(
            convolution(), nn.BatchNorm2d(channels), nn.ReLU(), convolution(), nn.BatchNorm2d(channels)
        )

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.conv_block(maps)


class Named(nn.Module):
    """A chain of layers under the name that it has in the original."""

    def __init__(self, name: str, *layers: nn.Module) -> None:
        super().__init__()
        self.chain = name
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, maps: Tensor) -> Tensor:
        return self.get_submodule(self.chain)(maps)


def chain(name: str, before: int, channels: int, blocks: int) -> nn.Module:
    first = nn.Conv2d(before, channels, 3, padding=1)
    return Named(name, first, *(Block(channels) for _ in range(blocks)))


def discriminator(channels: int, outputs: int) -> nn.Module:
    leaky = nn.LeakyReLU(0.01)
    first, second = nn.Conv2d(channels, channels, 4, 2, 1), nn.Conv2d(channels, channels // 2, 1)
    last = nn.Conv2d(channels // 2, outputs, SIDE // 2, bias=False)
    return Named("model", first, leaky, second, leaky, last)


def originals(backbone: str = "resnet50", classes: int = 6, strata: int = 3) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    memory, classifier = nn.Module(), nn.Module()
    memory.register_buffer("mem_tensors", torch.randn(strata, CHANNELS, SIDE, SIDE))
    classifier.fc = nn.Linear(CHANNELS, classes)
    parts = {
        "Base": resnet(backbone, CHANNELS),
        "EmoGen": chain("feat_encoder", CHANNELS, CHANNELS, 1),
        "ConGen": chain("feat_encoder", CHANNELS, CHANNELS, 1),
        "Recons": chain("feat_decoder", 2 * CHANNELS, CHANNELS, 2),
        "EmoDis": discriminator(CHANNELS, classes),
        "ConDis": discriminator(CHANNELS, strata),
        "Cnfnd": memory,
        "Cls": classifier,
    }
    for part in parts.values():
        for name, buffer in part.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                nn.init.uniform_(buffer, 0.5, 1.5)
        part.eval()
    return parts


@torch.inference_mode()
def logits(parts: dict[str, nn.Module]) -> Tensor:
    """(B, K, C): every prototype beside the emotion feature, one after the other."""
    images = torch.from_numpy(CROPS).permute(0, 3, 1, 2) / 127.5 - 1
    emotion = parts["EmoGen"](parts["Base"](images))
    of_strata = [torch.cat([emotion, m.expand_as(emotion)], 1) for m in parts["Cnfnd"].get_buffer("mem_tensors")]
    pooled = [parts["Recons"](both).mean((2, 3)) for both in of_strata]
    return torch.stack([parts["Cls"].get_submodule("fc")(each) for each in pooled], 1)


def saved(folder: Path, parts: dict[str, Any], epoch: str = "160") -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = []
    for name, part in parts.items():
        paths.append(folder / f"{epoch}_net_{name}.pth")
        torch.save(part.state_dict() if isinstance(part, nn.Module) else part, paths[-1])
    return paths


# --- import ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, nn.Module], Path]:
    """The parts, and the folder of their files."""
    parts, folder = originals(), tmp_path_factory.mktemp("iern") / "fold_bias100v1"
    saved(folder, parts)
    saved(folder, {"Base": {"x": torch.ones(1)}}, "80")
    return parts, folder


def test_a_folder_becomes_a_model(
    released: tuple[dict[str, nn.Module], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts, folder = released
    assert cli.main(["import", "iern", str(folder), "--out", str(tmp_path / "model")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "epoch 160 is taken; 80 are there too" in said
    assert "epoch 160 of IERN, fold_bias100v1, resnet50. Classes: anger, disgust, fear" in said

    model = honne.load(tmp_path / "model")
    found, wanted = model.predict(CROPS), logits(parts)
    torch.testing.assert_close(found.strata, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.expression, wanted.mean(1), rtol=1e-4, atol=1e-4)
    assert model.schema.expressions == ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
    assert model.network.expression.strata == ("CKPlus", "MMI", "OuluCASIA")  # type: ignore[union-attr]
    alignment = model.alignment
    assert (alignment.kind, alignment.size, alignment.centre) == ("eyes", 64, 0.875)
    assert (model.config.mean, model.config.std) == ([0.5] * 3, [0.5] * 3)
    assert "research only" in (tmp_path / "model/card.md").read_text()

    kept = iern.plain_tensors(tmp_path / "model" / TRAINING)
    assert torch.equal(
        kept["context.1.conv2.weight"], parts["ConGen"].state_dict()["feat_encoder.1.conv_block.3.weight"]
    )
    assert torch.equal(kept["stratum_discriminator.layers.2.weight"], parts["ConDis"].state_dict()["model.4.weight"])


@pytest.mark.parametrize("backbone", sorted(iern.BACKBONES.values()))
def test_every_backbone_of_the_original_is_known(backbone: str) -> None:
    with torch.device("meta"):
        base = {f"Base {key}": entry for key, entry in resnet(backbone, CHANNELS).state_dict().items()}
        own = iern.build("face", {"backbone": backbone}, iern.LabelSchema()).state_dict()
    assert iern.backbone(Path("160_net_Base.pth"), base) == backbone
    renamed = iern.own_names(base, own)
    assert set(own) == {key for key in renamed if not key.startswith("Base 8.")}
    assert all(entry.shape == renamed[key].shape for key, entry in own.items())


def test_scenes_are_whole_pictures_of_ten_strata(released: tuple[dict[str, nn.Module], Path], tmp_path: Path) -> None:
    two = {
        "Cnfnd": {"mem_tensors": torch.randn(10, CHANNELS, SIDE, SIDE)},
        "Cls": nn.ModuleDict({"fc": nn.Linear(8, 2)}),
    }
    base, encoder, decoder = (released[1] / f"160_net_{part}.pth" for part in ("Base", "EmoGen", "Recons"))
    files = [base, encoder, decoder, *saved(tmp_path, two)]
    model = iern.read(files, "scenes", strata="webemo")
    assert model.schema.expressions == ("negative", "positive")
    assert model.network.expression.strata[:2] == ("sky", "veterinarians_office")  # type: ignore[union-attr]
    assert (model.alignment.kind, model.alignment.size, model.alignment.centre) == ("none", 64, 0.875)
    iern.keep(files, model, tmp_path)
    assert not (tmp_path / TRAINING).exists()

    (smaller,) = saved(tmp_path, {"Recons": chain("feat_decoder", 8, 4, 2)})
    with pytest.raises(
        HonneError, match=r"does not fit resnet50: .* Recons feat_decoder.0.weight \(4, 8, 3, 3\) instead"
    ):
        iern.read([base, encoder, smaller, *files[3:]], "scenes", strata="webemo")


def test_what_files_do_not_tell_is_asked_for(tmp_path: Path) -> None:
    two = {"Cnfnd": {"mem_tensors": torch.zeros(10, 8, 2, 2)}, "Cls": {"fc.weight": torch.zeros(2, 8)}}
    files = saved(tmp_path, TINY | two)
    with pytest.raises(HonneError, match=r"of 10 strata, and does not say which.\n.*--strata mixbasic, emotion6"):
        iern.read(files, "scenes")
    with pytest.raises(HonneError, match="10 strata, but --strata names 2: sea, sky"):
        iern.read(files, "scenes", strata="sea, sky")
    with pytest.raises(HonneError, match="has 2 classes, but --labels names 8"):
        iern.read(files, "scenes", strata="webemo", labels="affectnet8")


# --- wrong files -----------------------------------------------------------------------------------------------------

TINY: dict[str, Entries] = {
    "Base": {"8.weight": torch.zeros(CHANNELS, 2048, 1, 1), "4.0.conv1.weight": torch.zeros(64, 64, 1, 1)},
    "EmoGen": {"feat_encoder.0.weight": torch.zeros(1)},
    "Recons": {"feat_decoder.0.weight": torch.zeros(1)},
    "Cnfnd": {"mem_tensors": torch.zeros(3, CHANNELS, SIDE, SIDE)},
    "Cls": {"fc.weight": torch.zeros(6, CHANNELS)},
}
"""Parts that can be told apart, and nothing more."""
EIGHTEEN = {f"{stage}.{block}.conv1.weight": torch.zeros(1) for stage in (4, 5, 6, 7) for block in (0, 1)}
WRONG: dict[str, tuple[str, Entries, str]] = {
    "a ResNet-18": (
        "Base",
        TINY["Base"] | EIGHTEEN,
        "160_net_Base.pth: stages of 2, 2, 2, 2 blocks are of another net",
    ),
    "another system": ("Base", {"base.conv1.weight": torch.ones(1)}, "not Base of IERN; it holds base.conv1.weight"),
    "parts mixed up": ("Cls", TINY["Recons"], "160_net_Cls.pth: not Cls of IERN; it holds feat_decoder.0.weight"),
    "flat prototypes": ("Cnfnd", {"mem_tensors": torch.zeros(3, 32)}, "mem_tensors has 2 dimensions"),
    "high prototypes": ("Cnfnd", {"mem_tensors": torch.zeros(3, 8, 3, 2)}, "of 3 x 2 positions, not of a square"),
    "other strata": ("Cnfnd", {"mem_tensors": torch.zeros(4, 8, 2, 2)}, "of 4 strata, and does not say which"),
    "other classes": ("Cls", {"fc.weight": torch.zeros(4, 8)}, "has 4 classes, and does not say which"),
    "not finite": ("EmoGen", {"x": torch.tensor([torch.nan])}, "160_net_EmoGen.pth: 'x' holds values that are not"),
    "no tensors": ("EmoGen", {}, "160_net_EmoGen.pth: holds no tensors by name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_parts_are_refused(tmp_path: Path, case: str) -> None:
    part, entries, sentence = WRONG[case]
    saved(tmp_path / "files", TINY | {part: entries})
    with pytest.raises(HonneError, match=sentence):
        honne.import_model("iern", [tmp_path / "files"], tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_parts_are_of_one_epoch(tmp_path: Path) -> None:
    late, early = saved(tmp_path, TINY), saved(tmp_path, {"Recons": TINY["Recons"]}, "80")
    with pytest.raises(HonneError, match=r"of several epochs \(160: Base, .*; 80: Recons\)"):
        iern.read([*late, *early], "model")
    with pytest.raises(HonneError, match=r"there is no 80_net_Base.pth.\n.*Cnfnd and Cls of one epoch"):
        iern.read(early, "model")
    with pytest.raises(HonneError, match="no such weights file"):
        iern.read([path.with_name(path.name.replace("160", "90")) for path in late], "model")
    late[2].unlink()
    with pytest.raises(HonneError, match=r"there is no 160_net_Recons.pth"):
        iern.read([tmp_path], "model")
    torch.save(TINY["Base"], tmp_path / "160_net_Base.pt")
    with pytest.raises(HonneError, match=r"160_net_Base.pth: .*160_net_Base.pt is Base of epoch 160 too"):
        iern.read([tmp_path], "model")


def test_wrong_calls(tmp_path: Path) -> None:
    with pytest.raises(HonneError, match="holds no file of IERN's training"):
        iern.read([tmp_path], "model")
    with pytest.raises(
        HonneError, match=r"resnet18.pth: not called as IERN's training calls its files: 160_net_Base.pth"
    ):
        iern.read([tmp_path / "resnet18.pth"], "model")
    with pytest.raises(WrongCall, match="no option --stem; it takes --labels, --strata"):
        honne.import_model("iern", [tmp_path], tmp_path / "model", stem="released")


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never run",)


def test_a_pickle_never_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = saved(tmp_path, TINY | {"Cls": {"fc.weight": RunsCode()}})
    with pytest.raises(HonneError, match=r"160_net_Cls.pth: not a file of plain tensors"):
        iern.read(files, "model")
    files[-1].write_bytes(pickle.dumps({"fc.weight": RunsCode()}, protocol=2))
    with pytest.raises(HonneError, match=r"160_net_Cls.pth: not a file of plain tensors"):
        iern.read(files, "model")
    assert "never run" not in capsys.readouterr().out


# --- going on --------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {
    "model.backbone": "face_resnet",
    "model.backbone_options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8},
    "iern.channels": 8,
    "iern.encoder_blocks": 1,
    "iern.decoder_blocks": 1,
    "iern.discriminator_blocks": 1,
    "data.batch_size": 8,
    "data.workers": 0,
    "trainer.accelerator": "cpu",
}


Fresh = Callable[..., tuple[Any, dict[str, Any]]]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """Makes a method before its first step, and the options of its network."""
    world = make_world(tmp_path_factory.mktemp("start") / "world", World(n=60, size=32, domains=3)).root
    recipe = recipes.read("iern", [world], "run", OPTIONS)
    data = DataModule(open_data([world]), size=32, batch_size=8)

    def make(**more: Any) -> tuple[Any, dict[str, Any]]:
        chosen = replace(recipe, options=replace(recipe.options, **more))
        options = method("iern").network_options(chosen.options, building._frame_options(chosen), data)
        return training.new_method(chosen, data, 1, "face", options), options

    return make


def test_training_goes_on_from_a_model(fresh: Fresh, tmp_path: Path) -> None:
    first, options = fresh()
    head, turned = first.head, [2, 0, 1]
    with torch.no_grad():
        for entry in (*first.network.state_dict().values(), *first.context.state_dict().values()):
            if entry.is_floating_point():
                entry.uniform_(0.5, 1)
    options["head_options"]["strata"] = [head.strata[number] for number in turned]
    config = ModelConfig("start", "iern", {"kind": "face", "options": options}, first.schema, [0.5], [0.5], {})
    model = Model(config, first.network)
    model.save(tmp_path, metrics={}, card="")
    state = first.state_dict()
    beside = {key: state[key].contiguous() for key in state if key.partition(".")[0] in TRAINING_ONLY}
    iern.save_file(beside, tmp_path / TRAINING)

    second, _ = fresh(start=tmp_path)
    back = [turned.index(number) for number in range(3)]
    after = second.state_dict()
    moved = {"network.expression.prototypes", "stratum_discriminator.layers.2.weight"}
    kept = {key for key in after if key.partition(".")[0] in ("network", *TRAINING_ONLY)} - moved
    assert len(kept) > 50
    assert all(torch.equal(after[key], state[key]) for key in kept)
    assert all(torch.equal(after[key], state[key][back]) for key in moved)
    assert torch.equal(second.centers, second.head.prototypes.flatten(1))
    assert second.met.all()

    with pytest.raises(HonneError, match=r"does not fit the recipe's network: .*\n.*among the --iern options"):
        fresh(start=tmp_path, channels=4)
    options["head_options"]["strata"] = ["sea", "sky", "woods"]
    model.save(tmp_path, metrics={}, card="")
    with pytest.raises(HonneError, match="a model of the strata sea, sky, woods; the data have"):
        fresh(start=tmp_path)
    with pytest.raises(HonneError, match="not the folder of a model of method iern"):
        fresh(start=tmp_path / "nothing")
