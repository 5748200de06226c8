"""The card of a trained model: what it is, what it learned from, how well it does and what it must not be used for."""

from __future__ import annotations

from typing import Any

from honne.evaluation.printing import name_of
from honne.labels import LabelSchema
from honne.models import Model

RESPONSIBLE_USE = (
    "Outputs are predicted apparent expression: what observers would say they see, never what the person feels. "
    "Not for inferring emotions at work or in education (EU AI Act, Article 5(1)(f)); people who are exposed must be "
    "told (Article 50(3)). See RESPONSIBLE_USE.md."
)


def write_card(model: Model, evaluations: list[dict[str, Any]], half: bool = False) -> None:
    """Write `card.md` and `metrics.json` into the model's folder.

    Args:
        model: as loaded from its folder.
        evaluations: results of `honne.evaluation.evaluate`, as dictionaries.
        half: whether the weights are stored in half precision.
    """
    if model.folder is None:
        raise ValueError("the model was not loaded from a folder")
    figures: dict[str, Any] = {"evaluations": evaluations}
    if evaluations and "accuracy" in evaluations[0]["metrics"]:
        figures["accuracy"] = evaluations[0]["metrics"]["accuracy"]["value"]
        figures["on"] = f"{evaluations[0]['data']['name']} {evaluations[0]['split']}"
    model.save(model.folder, metrics=figures, card=card_text(model, evaluations), half=half)


def card_text(model: Model, evaluations: list[dict[str, Any]]) -> str:
    """Markdown of the card."""
    config, training = model.config, model.config.training
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    crop = f"{model.alignment.size} px, alignment `{model.alignment.kind}`{', grey' if model.alignment.grey else ''}"
    if model.alignment.centre != 1:
        crop += f", the central {model.alignment.centre:.4g} of the side"
    modalities = getattr(model, "modalities", ())
    seen = f"feature sequences: {', '.join(modalities)}" if modalities else crop
    emotions, scale = ", ".join(config.labels.emotions), config.labels.sentiment
    more = [f"| emotions, each present or absent | {emotions} |"] if emotions else []
    more += [f"| sentiment | {-scale:g} (negative) to {scale:g} (positive) |"] if scale else []
    lines = [
        f"# {config.name}",
        "",
        RESPONSIBLE_USE,
        "",
        "| | |",
        "|---|---|",
        f"| method | {config.method} |",
        f"| network | {config.network_name}, {parameters:,} parameters |",
        f"| expressions | {', '.join(config.labels.expressions) or 'none'} |",
        f"| action units | {', '.join(f'AU{unit}' for unit in config.labels.action_units) or 'none'} |",
        f"| valence and arousal | {'yes' if config.labels.valence_arousal else 'no'} |",
        *more,
        f"| input | {seen} |",
        f"| temperature | {config.temperature:.4f} |",
        f"| trained on | {', '.join(training.get('data', []))}, split train, seed {training.get('seed')} |",
        "| selected and calibrated on | split valid of the same data |",
        f"| licence of the weights | {config.licence.get('weights', 'not stated')} |",
        f"| licence of the data | {config.licence.get('data', 'not stated')} |",
        "",
        "## Figures",
        "",
    ]
    if config.labels == LabelSchema():
        lines += ["This model names no expression: it is a trunk, for `honne train ... --model.weights`.", ""]
    if "verification" in training:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in training["verification"].items())
        lines += [f"Telling unseen people apart, all pairs of the validation split: {shown}.", ""]
    for each in evaluations:
        lines += [
            f"On {each['data']['name']}, split {each['split']}, {each['rows']:,} rows,"
            f"{' flips averaged,' if each.get('flips') else ''} 95 % bootstrap intervals"
            f" (seed {each['seed']}). The weights were selected and the temperature fitted on this split,"
            " so expect slightly less on new people.",
            "",
            "| figure | value | 95 % interval |",
            "|---|---|---|",
            *(
                f"| {name_of(name)} | {entry['value']:.4f} | {entry['low']:.4f} to {entry['high']:.4f} |"
                for name, entry in each["metrics"].items()
            ),
            "",
        ]
    lines += [
        "## Limits",
        "",
        "- Labels are what observers said of what they saw; agreement among them is limited, and so is this model.",
        "- Rare classes rest on few examples: look at the per-class table before using them.",
        "- Figures by group (age, skin tone, culture) are not known unless stated above; check them on your own data.",
        "",
    ]
    return "\n".join(lines)
