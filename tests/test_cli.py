"""The command line: exit statuses, suggestions, one sentence for every failure."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Literal

import pytest

from honne import cli
from honne.errors import HonneError, WrongCall


def cook(
    inputs: list[str],
    out: Path = Path("plates"),
    *,
    heat: float = 180.0,
    fat: Literal["butter", "oil"] = "butter",
    max_minutes: int | None = None,
    salt: bool = True,
    vegan: bool = False,
) -> int:
    """Cook what is there.

    Args:
        inputs: what to cook; some inputs make the cook fail.
        out: folder for the plates.
        heat: of the oven, degrees Celsius.
        fat: in the pan.
        max_minutes: stop after so many minutes; unset waits.
        salt: whether to salt.
        vegan: leave out the fat.
    """
    failures: dict[str, BaseException] = {
        "spoilt": HonneError("eggs.csv, row 3: spoilt.", "Buy new ones."),
        "called wrongly": WrongCall("heat and vegan do not go together.", "Drop one."),
        "full": OSError(errno.ENOSPC, "No space left on device", "plates/soup.parquet"),
        "brimful": OSError(errno.ENOSPC, "No space left on device"),
        "locked": PermissionError(errno.EACCES, "Permission denied", "/larder"),
        "stop": KeyboardInterrupt(),
        "bug": ZeroDivisionError("division\nby zero"),
        "no mixer": ModuleNotFoundError("No module named 'mixer'", name="mixer"),
    }
    if inputs[0] in failures:
        raise failures[inputs[0]]
    sys.stdout.write(json.dumps([inputs, str(out), heat, fat, max_minutes, salt, vegan]))
    return 3 if "half" in inputs else 0


@pytest.fixture(autouse=True)
def kitchen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the command `cook`."""
    module = types.ModuleType("kitchen")
    module.cook = cook  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kitchen", module)
    monkeypatch.setitem(cli.COMMANDS, "cook", cli.Command("kitchen:cook", "cook what is there", ("inputs",)))


def test_arguments_reach_the_function_with_their_types(capsys: pytest.CaptureFixture[str]) -> None:
    words = "cook egg ham --out x --heat 90 --fat oil --max-minutes 5 --no-salt --vegan"
    assert cli.main(words.split()) == 0
    assert json.loads(capsys.readouterr().out) == [["egg", "ham"], "x", 90.0, "oil", 5, False, True]


def test_defaults_and_configuration_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cook.yaml").write_text("max_minutes: 7\nvegan: true\n")
    assert cli.main(["cook", "egg", "--config", str(tmp_path / "cook.yaml"), "--heat", "90"]) == 0
    assert json.loads(capsys.readouterr().out) == [["egg"], "plates", 90.0, "butter", 7, True, True]


def test_status_three_when_some_inputs_failed() -> None:
    assert cli.main(["cook", "half", "done"]) == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("coock egg", "there is no command 'coock'. Did you mean 'cook'?"),
        ("cook egg --heet 3", "there is no option '--heet'. Did you mean '--heat'?"),
        ("cook egg --max_minutes 3", "there is no option '--max_minutes'. Did you mean '--max-minutes'?"),
        ("cook egg --heat hot", "--heat: 'hot' is not valid; expected float."),
        ("cook egg --fat lard", "--fat: 'lard' is not valid; expected butter or oil."),
        ("cook egg --fat buter", "--fat: 'buter' is not valid; expected butter or oil. Did you mean 'butter'?"),
        (
            "evaluate m --data d --compat mlt",
            "--compat: 'mlt' is not valid; expected mult or causalmer. Did you mean 'mult'",
        ),
        ("cook egg --config none.yaml", "File does not exist"),
        ("cook", "the following arguments are required: inputs"),
        ("--helpp", "there is no option '--helpp'"),
    ],
)
def test_wrong_calls(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words.split()) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("honne: error: ")
    assert sentence in shown.err
    assert "--help` lists" in shown.err
    assert not shown.out


def test_unknown_keys_of_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cook.yaml").write_text("max_minuts: 7\n")
    assert cli.main(["cook", "egg", "--config", str(tmp_path / "cook.yaml")]) == 2
    assert "no option 'max_minuts'. Did you mean 'max_minutes'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "status", "sentence"),
    [
        ("spoilt", 1, "honne: error: eggs.csv, row 3: spoilt.\n       Buy new ones.\n"),
        ("called wrongly", 2, "honne: error: heat and vegan do not go together.\n       Drop one.\n"),
        ("full", 1, "disk full while writing plates/soup.parquet"),
        ("brimful", 1, "disk full while writing pantry"),
        ("locked", 1, "honne: error: /larder: Permission denied.\n"),
        ("stop", 130, "honne: interrupted"),
        ("bug", 1, "honne: internal error: ZeroDivisionError: division by zero\n       Run again with --debug"),
        ("no mixer", 1, "the Python package 'mixer' is not installed"),
    ],
)
def test_failures_are_sentences(what: str, status: int, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cook", what, "--out", "pantry"]) == status
    shown = capsys.readouterr().err
    assert sentence in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("words", [["--debug", "cook", "bug"], ["cook", "bug", "--debug"]])
def test_debug_shows_the_traceback(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "internal error: ZeroDivisionError" in shown


def test_help_of_a_command_names_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["cook", "--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "of the oven, degrees Celsius. (type: float, default: 180.0)" in shown
    assert "--salt, --no-salt whether to salt." in shown
    assert "apparent expression" in shown


def test_overview() -> None:
    """The overview lists the commands, needs nothing heavy, and a reader that leaves early is no error."""
    code = (
        "import sys; from honne.cli import main; status = main(['--help'])\n"
        "assert status == 0 and not {'torch', 'numpy', 'jsonargparse', 'rich'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    for word in ("RESPONSIBLE_USE.md", "predicted apparent expression", "--version", "analyze", "doctor"):
        assert word in run.stdout
    piped = f"{sys.executable} -m honne --help | head -0"
    run = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, timeout=60, check=False)
    assert not run.stderr


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name != "cook"])
def test_every_option_of_every_command_is_explained(command: str) -> None:
    parser, _ = cli.parser_and_command(command)
    unexplained = [action.dest for action in parser._actions if not action.help]
    assert not unexplained


def test_every_packaged_recipe_is_understood() -> None:
    from honne import recipe

    assert {"default", "erm"} <= set(recipe.names())
    for name in recipe.names():
        read = recipe.read(name, ["data"], "run", {"trainer.epochs": 3})
        assert read.trainer.epochs == 3
        assert read.data.folders == ["data"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import honne

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"honne {honne.__version__}\n"


def test_doctor_tries_what_is_installed(capfd: pytest.CaptureFixture[str]) -> None:
    status = cli.main(["doctor", "--json"])
    report = json.loads(capfd.readouterr().out)
    assert status == (0 if report["healthy"] else 1)
    states = {check["part"]: check["state"] for check in report["checks"]}
    assert states["torch"] == states["torchvision"] == states["packages"] == states["extra dmue"] == "ok"
    assert set(states.values()) <= {"ok", "missing", "broken"}
    assert all(check["advice"] for check in report["checks"] if check["state"] != "ok")
