"""The `honne` command: a table of commands, each the public function of one module.

Nothing heavy is imported here. The chosen command's module is imported when it runs, and its parser is built from the
function's type hints and docstring, so that the Python interface and the command line cannot drift apart.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import inspect
import itertools
import logging
import os
import re
import sys
import traceback
import typing
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import honne
from honne.errors import HonneError, WrongCall

if TYPE_CHECKING:
    from argparse import Namespace

    from jsonargparse import ArgumentParser

DONE, FAILED, WRONG_CALL, INTERRUPTED = 0, 1, 2, 130
RESPONSIBLE_USE = (
    "Outputs are predicted apparent expression: what observers would say they see, never what a person feels.\n"
    "In the EU, inferring emotions at work or in education is prohibited (AI Act, Article 5(1)(f)).\n"
    "Read RESPONSIBLE_USE.md before using them on people."
)


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        target: "module:function"; or "module" when that module makes its own parser: `parser()` returns it and
            `command(namespace)` runs.
        summary: one line for `honne --help`.
        positionals: parameters of the function given by position; optional ones have a default in the signature, and
            one of type `list` takes one or more.
    """

    target: str
    summary: str
    positionals: tuple[str, ...] = ()


COMMANDS = {
    "demo": Command("honne.demo:demo", "the main job end to end on this machine, ending in one HTML report"),
    "prepare": Command("honne.data.prepare:prepare", "official data layout -> prepared data set", ("reader", "root")),
    "import": Command("honne.interop:import_model", "checkpoint of another system -> model", ("system", "files")),
    "train": Command("honne.training", "train a recipe; running it again resumes"),
    "evaluate": Command("honne.evaluation:evaluate", "metrics of a model on a data set, with intervals", ("model",)),
    "compare": Command("honne.evaluation:compare", "paired bootstrap between two evaluations", ("a", "b")),
    "audit": Command("honne.audit:audit", "ambiguity, doubtful labels, bias: one HTML page + JSON", ("model",)),
    "analyze": Command("honne.analysis:command", "stills, folders, videos, camera -> one table", ("inputs",)),
    "explain": Command(
        "honne.explain.explaining:command", "where a model looks: pictures, arrays, action units", ("model", "inputs")
    ),
    "models": Command("honne.models:models_command", "installed models; how to cite one", ("name",)),
    "doctor": Command("honne.doctor:doctor", "what works on this machine, and what to do where it does not"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words after `honne`; those of the process by default.

    Returns:
        Exit status: 0 done, 1 failed, 2 wrong call, 3 finished but some inputs failed, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        status = _run(words, debug)
        sys.stdout.flush()
        return status
    except SystemExit:
        raise
    except BrokenPipeError:  # the reader of our output (head, less) has left
        return FAILED
    except BaseException as error:
        if debug:
            traceback.print_exc()
        status, sentence = _sentence(error, words)
        sys.stderr.write(f"honne: {sentence}\n")
        return status
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # said above; Python would say it again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(words: list[str], debug: bool) -> int:
    name = words[0] if words else "--help"
    if name in ("--help", "-h", "help"):
        sys.stdout.write(f"{_overview()}\n")
        return DONE
    if name == "--version":
        sys.stdout.write(f"honne {honne.__version__}\n")
        return DONE
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        raise WrongCall(f"there is no {kind} '{name}'.{_did_you_mean(name, COMMANDS)}", "`honne --help` lists them.")
    _log_to_stderr(debug)
    parser, command = parser_and_command(name)
    status = command(_parse(parser, words[1:]))
    return status if isinstance(status, int) else DONE


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: honne COMMAND ... [--debug]",
            "",
            "Train, run and evaluate emotion-recognition models that can be trusted.",
            "",
            "commands (each has --help):",
            *lines,
            "",
            "options:",
            "  --help     this text",
            "  --version  version of honne",
            "  --debug    with any command: tracebacks and detailed logging",
            "",
            RESPONSIBLE_USE,
        ]
    )


def parser_and_command(name: str) -> tuple[ArgumentParser, Callable[[Namespace], Any]]:
    """The parser of a command, and what runs it with the parsed arguments."""
    module_name, _, function_name = COMMANDS[name].target.partition(":")
    module = importlib.import_module(module_name)
    if not function_name:
        parser = module.parser()
        parser.prog, parser.exit_on_error, parser.epilog = f"honne {name}", False, RESPONSIBLE_USE
        return parser, module.command
    function = getattr(module, function_name)
    parser = parser_of(function, f"honne {name}", COMMANDS[name].positionals)
    parameters = inspect.signature(function).parameters
    return parser, lambda values: function(**{key: value for key, value in vars(values).items() if key in parameters})


def parser_of(function: Callable[..., Any], prog: str, positionals: Iterable[str] = ()) -> ArgumentParser:
    """Command-line parser of a function with type hints and a Google-style docstring.

    `max_faces: int = 50` becomes `--max-faces`, `video: bool = False` the flag `--video`, and `smooth: bool = True` the
    flags `--smooth` and `--no-smooth`. `--config FILE` reads any of them from YAML.

    Args:
        function: what to call; every parameter has a type hint.
        prog: how help and errors name the command.
        positionals: parameters given by position.
    """
    import docstring_parser
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        def format_help(self) -> str:
            return super().format_help().replace("<class 'Path'>", "Path")

    documentation = docstring_parser.parse(inspect.getdoc(function) or "")
    texts = {parameter.arg_name: " ".join((parameter.description or "").split()) for parameter in documentation.params}
    parameters = inspect.signature(function).parameters
    hints = _hints(function)
    parser = ArgumentParser(
        prog=prog,
        description=documentation.description,
        epilog=RESPONSIBLE_USE,
        exit_on_error=False,
        allow_abbrev=False,
        print_config="--print-%s",
        formatter_class=Formatter,
    )
    for name in positionals:
        hint, default = hints[name], parameters[name].default
        many = typing.get_origin(hint) is list
        optional = default is not inspect.Parameter.empty
        parser.add_argument(
            name,
            nargs="+" if many else "?" if optional else None,
            type=typing.get_args(hint)[0] if many else hint,
            help=texts.get(name),
            **({"default": default} if optional else {}),
        )
    for name, parameter in parameters.items():
        if name not in positionals:
            _add_option(parser, parameter, hints[name], texts.get(name))
    parser.add_argument("--config", action="config", help="YAML file with any of these options.")
    return parser


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Types of the parameters; what is returned may be a type that only a type checker imports."""
    function = inspect.unwrap(function)
    annotations = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
    return typing.get_type_hints(SimpleNamespace(__annotations__=annotations), function.__globals__)


def _add_option(parser: ArgumentParser, parameter: inspect.Parameter, hint: Any, text: str | None) -> None:
    from jsonargparse import ActionYesNo

    flag = parameter.name.replace("_", "-")
    if hint is bool:
        action = ActionYesNo(no_prefix="no-") if parameter.default else "store_true"
        parser.add_argument(f"--{flag}", action=action, default=parameter.default, help=text)
    elif parameter.default is inspect.Parameter.empty:
        parser.add_argument(f"--{flag}", type=hint, required=True, help=text)
    else:
        parser.add_argument(f"--{flag}", type=hint, default=parameter.default, help=text)


def _parse(parser: ArgumentParser, words: list[str]) -> Namespace:
    from argparse import ArgumentError

    try:
        return parser.parse_args(words)
    except ArgumentError as error:
        hint = f"`{parser.prog} --help` lists the options."
        raise WrongCall(_wrong_call(parser, str(error)), hint) from error


def _wrong_call(parser: ArgumentParser, message: str) -> str:
    """One sentence for what the parser complains of."""
    flags = re.findall(r"--[A-Za-z][\w.+-]*", parser.format_help())
    if unknown := re.match(r"unrecognized arguments: (.*)", message):
        word = next((word for word in unknown[1].split() if word.startswith("-")), unknown[1])
        word = word.partition("=")[0]
        return f"there is no option '{word}'.{_did_you_mean(word, flags)}"
    if unknown := re.match(r"Option '(.*)' is not accepted", message):
        keys = [flag.lstrip("-").replace("-", "_") for flag in flags]
        return f"the configuration has no option '{unknown[1]}'.{_did_you_mean(unknown[1], keys)}"
    wrong = re.match(r'Parser key "([^"]+)":', message)
    value = re.search(r"(?:Given value|Got value): (.*)", message)
    if wrong and value:
        flag = next((flag for flag in flags if flag == f"--{wrong[1].replace('_', '-')}"), wrong[1])
        kind = re.search(
            rf"^ +{re.escape(flag)} .*?type:\s+(.*?)(?:,\s+default:|,\s+required|\))", parser.format_help(), re.M | re.S
        )
        return f"{flag}: '{value[1]}' is not valid" + (_expected(" ".join(kind[1].split()), value[1]) if kind else ".")
    message = re.sub(r'^Parser key "([^"]+)":', r"--\1:", message)
    return " ".join(message.split())


def _expected(kind: str, value: str) -> str:
    """The end of a sentence about a value that is not of this kind, as `float` or `Literal['butter', 'oil']`."""
    choices = re.findall(r"'([^']*)'", kind)
    if not choices:
        return f"; expected {kind}."
    listed = " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))
    return f"; expected {listed}.{_did_you_mean(value, choices)}"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def _sentence(error: BaseException, words: Sequence[str] = ()) -> tuple[int, str]:
    """Exit status and what to say of an error that ended the command with these words."""
    if isinstance(error, HonneError):
        return WRONG_CALL if isinstance(error, WrongCall) else FAILED, f"error: {error}"
    text = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, text or "interrupted; nothing half-written was kept. Run the same command again to go on."
    where = getattr(error, "filename", None)
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in text:
        out = next((word for option, word in itertools.pairwise(words) if option == "--out"), "the output")
        hint = "Nothing half-written was kept. Free some space, then run the same command again."
        return FAILED, f"error: disk full while writing {where or out}.\n       {hint}"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("honne"):
        hint = "`honne doctor` says how to install what is missing."
        return FAILED, f"error: the Python package '{error.name}' is not installed.\n       {hint}"
    if isinstance(error, OSError) and where and error.strerror:
        return FAILED, f"error: {where}: {error.strerror}."
    hint = "Run again with --debug for the traceback."
    return FAILED, f"internal error: {type(error).__name__}: {text}\n       {hint}"


class _StderrHandler(logging.StreamHandler):
    """Writes to what `sys.stderr` is at that moment, so that lines appear above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _log_to_stderr(debug: bool) -> None:
    shape = "%(levelname)s: %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format=shape, handlers=[_StderrHandler()])
    logging.getLogger("honne").setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug:
        for category in (DeprecationWarning, FutureWarning):  # speak to programmers, not to users
            warnings.simplefilter("ignore", category)
