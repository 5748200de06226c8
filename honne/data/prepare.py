"""`honne prepare`: an official layout becomes a prepared data set."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pandas as pd

from honne import __version__, console
from honne.data import readers
from honne.data.clips import ClipFeatures
from honne.data.cropping import NO_FACE, SMALLEST, TEMPLATES, Cropper, Encoding, Fallback, Made, Stored, cropped
from honne.data.landmarks import LandmarkFile, MeshLandmarks
from honne.data.leaks import without_leaks
from honne.data.manifest import DataSchema, sha256, write_manifest
from honne.data.mixbasic import Bias, Fold
from honne.data.padded import Padding, Timing
from honne.data.readers import Bad, Protocol, ReaderInfo, Row, Splits
from honne.data.splits import split_rows, without_own_split
from honne.data.storing import Problems, building, card, say, sequence_table, store, store_sequences
from honne.data.votes import TargetMode
from honne.errors import HonneError, WrongCall
from honne.faces.align import Alignment

DONE, SOME_FAILED = 0, 3
Align = Literal["default", "none", "box", "points", "upright", "eyes", "eyes_mouth", "dmue"]
PUBLISHED = (
    "Protocol as published: the validation rows are the test rows, so figures of a model selected on them are too "
    "high. For clean ones leave --protocol out and pass --valid-share 0.1."
)


def prepare(
    reader: str = "",
    root: Path | None = None,
    out: Path | None = None,
    *,
    list: bool = False,
    target_mode: TargetMode | None = None,
    votes_from: Literal["fer2013new.csv", "label.csv"] | None = None,
    images: Literal["aligned", "our_aligned", "original"] | None = None,
    points: Literal["given", "found"] | None = None,
    protocol: Protocol | None = None,
    dataset: Literal["rafdb", "affectnet", "emotion6", "webemo", "sentiment", "iemocap", "mosei_senti", "mosi"]
    | None = None,
    scenes: str | None = None,
    label_set: str | None = None,
    columns: dict[str, str] | None = None,
    subject_pattern: str | None = None,
    fold: Fold | None = None,
    bias: Bias | None = None,
    fold_files: str | None = None,
    present_from: int | None = None,
    min_confidence: float | None = None,
    splits: Splits | None = None,
    task: Literal["all", "expression", "action_units", "valence_arousal"] | None = None,
    partial: Literal["keep", "drop"] | None = None,
    thin: Literal["none", "published"] | None = None,
    pickles: str | None = None,
    paths: Literal["below", "given"] | None = None,
    channel: Literal["speech", "song", "all"] | None = None,
    fps: float | None = None,
    timing: Timing | None = None,
    padding: Padding | None = None,
    modalities: dict[str, str] | None = None,
    features: dict[str, str] | None = None,
    align: Align = "default",
    size: int | None = None,
    margin: float | None = None,
    finder: str = "mediapipe",
    fallback: Fallback = "none",
    encoding: Encoding = "auto",
    landmarks: str | None = None,
    valid_share: float | None = None,
    test_share: float | None = None,
    cross_validation: str | None = None,
    seed: int = 0,
    copies: Literal["drop", "report", "refuse"] | None = None,
    subjects: Literal["report", "refuse"] = "report",
    skip_bad: bool = False,
    limit: int | None = None,
    workers: int = 0,
    overwrite: bool = False,
) -> int:
    """Turn a data set in its official layout into a prepared one, that every honne command reads.

    Cropping happens here, once, and is recorded, so that analysis crops the same way. DATA appears only when it is
    whole. What was left out, and why, stands in DATA/problems.csv.

    Args:
        reader: which layout ROOT has; --list names them.
        root: folder (or zip, or table) with the official files.
        out: folder to write, DATA.
        list: only say which readers there are, what each expects and who has the data.
        target_mode: ferplus: how ten votes become the distribution to learn. Default: votes.
        votes_from: ferplus: the file with the votes. Default: fer2013new.csv.
        images: rafdb: which of its images. Default: aligned.
        points: rafdb: the five points of its original images: given (placed by hand) or found by the finder. Default:
            given.
        protocol: rafdb, affectnet, au_cues: published makes the test rows the validation rows too, as most papers on
            these data have it: what is selected on them has seen the test. Default: clean.
        dataset: au_cues: rafdb or affectnet. Default: the only one there. scenes: emotion6, webemo or sentiment. mult:
            iemocap, mosei_senti or mosi. Default: the only one there.
        scenes: scenes: a table of what a scene classifier says, to draw the strata from: path, scene and, if known,
            probability and setting (indoor, outdoor). Default: scene_labels in ROOT.
        label_set: folder, table, feature_table, affectnet: expression set that the labels are codes or names of (as
            rafdb or affectnet8), or your own class names separated by commas. Default: names in any usual spelling.
            dmue_cache: the set, or the names, in whose order the labels count from 0. Default: affectnet8.
        columns: table: which column holds what, as --columns.path file --columns.label emotion. The names: path, label,
            votes, valence, arousal, au, intensity, subject, split, domain, video, time, landmarks, box, text, id.
            feature_table: id, label, valence, arousal, subject, split, domain, video, text. Default: columns of these
            names.
        subject_pattern: folder: regular expression with one group that finds the subject in the path below ROOT, as
            '(S[0-9]+)_'. Default: no subjects.
        fold: mixbasic: published fold, 1 to 3, whose training and test rows become the splits. disfa, bp4d: published
            fold, 1 to 3, by subject, a sixth of its training subjects for validation. Default: no fold; splits are
            drawn.
        bias: mixbasic: percent of a fold's tested pairs of data set and emotion that is kept out of training. Default:
            100.
        fold_files: mixbasic: folder with the published fold files. Default: ROOT, or a folder in it.
        present_from: disfa: the least intensity, 1 to 5, of an action unit that counts as present. Default: 2.
        min_confidence: expw: the least confidence of the detector that found the face. Default: all faces.
        splits: expw, afewva: drawn gives 70, 10 and 20 % of the images (of the actors or clips) to train, valid and
            test, train gives all to train. Default: drawn.
        task: affwild2, multitask_pickles: which labels are read. Default: all.
        partial: affwild2, saffwild2: what becomes of a frame's action units where some of them are not coded: keep
            takes those that are, drop none, as the original multi-task work does. Default: keep.
        thin: affwild2: published keeps the label of every tenth neutral, every other happy or sad, and every fifth
            frame with valence and arousal of the training videos, as the original multi-task work does. Default: none.
        pickles: multitask_pickles: a pickle, or a folder of them. Default: those in ROOT.
        paths: multitask_pickles: below finds each picture below ROOT by the end of its path, given takes the paths as
            they are. Default: below.
        channel: ravdess: speech, song or all. Default: speech.
        fps: affwild2, saffwild2, multitask_pickles: frames per second, for the times of numbered frames. Default: 30.
        timing: mult, mmsa: aligned (a step of every modality is the same word) or unaligned. Default: the only one
            there.
        padding: mult, mmsa: strip leaves out the padding in front and behind, keep gives all steps, as the originals
            have it. Default: strip.
        modalities: feature_table: which columns are features, as --modalities.audio f0_mean:rel_f0_sd --modalities.face
            smile,frown: names, or ranges in the order of the file, separated by commas; constant for a single 1 in
            every row.
        features: crema_d, ravdess, meld: features of a modality, as --features.audio log_mel --features.vision default
            --features.text hash; a modality that is not named is not made. Default: those of `honne.features`, of all
            three.
        align: none keeps the whole image, box takes the square around the face, points brings eyes, nose and
            mouth to fixed places (those of face recognition), upright does so without rotation, eyes brings the two
            eyes to where MixBasic's crops have them, dmue all five points to about where DMUE's crops have them.
            Default: what suits the data set.
        size: side of the stored crop in px. Default: what suits the data set.
        margin: for align=box: side of the crop over the longer side of the box. Default: 1.2.
        finder: what finds faces where the data set does not say where they are: mediapipe, yunet:PATH, tasks:PATH or
            table:PATH.
        fallback: what a picture becomes in which no face is found: none leaves it out, box takes the data set's face
            box, stretched to the crop, swapped does so with x and y exchanged, as the AU-cue work has it.
        encoding: auto keeps the original bytes where no pixel changes, else PNG up to 64 px and JPEG above.
        landmarks: 68 landmarks of every stored picture: mesh looks for them where data set and finder gave none, none
            leaves them out, and a file brings them (landmarks.txt: path,x1,...,x68,y1,...,y68 a line, px of the stored
            picture). Default: those of the data set, or of the finder where it had to look for the face.
        valid_share: share of the rows, 0..1, for a validation split: of all rows where the layout has no split
            (default 0.1), of the official training rows where it has one but no validation part (default 0).
        test_share: share of the rows, 0..1, for a test split where the layout has no split. Default: 0.2.
        cross_validation: fold and number of folds, as 3/8, in place of the shares, where the layout has no split: whole
            subjects are drawn into eight folds, of which the third is for test, the fourth for validation and the
            others for training. The same seed gives the same folds.
        seed: of the random splits.
        copies: rows that repeat, pixel by pixel or number by number, a picture or sequences of another split, or
            earlier ones of the same evaluation split. drop leaves them out (training rows stay; test goes before
            valid), report keeps them, refuse stops. Default: drop; with the published protocol or a published fold, for
            data prepared before, for frames of Aff-Wild2 and for feature_table, report.
        subjects: people (videos where no people are known) with rows in several official splits: report them, or
            refuse.
        skip_bad: leave out rows whose label is wrong, instead of stopping at the first.
        limit: at most so many rows of every split, for a quick try.
        workers: processes that crop, or make features of clips; 0 works in this one.
        overwrite: replace DATA if it exists.

    Returns:
        Exit status: 0, or 3 if some images could not be used.

    Raises:
        HonneError: the layout is not there, a label is wrong, nothing is left, or a check refuses.
        WrongCall: an option that the reader does not have.
    """
    if list:
        list_readers()
        return DONE
    if not reader or root is None or out is None:
        raise WrongCall(
            "prepare needs READER, ROOT and --out DATA.", "`honne prepare --list` says what each reader expects."
        )
    module, root, out = readers.get(reader), Path(root), Path(out)
    given = {
        "target_mode": target_mode,
        "votes_from": votes_from,
        "images": images,
        "label_set": label_set,
        "columns": columns,
        "subject_pattern": subject_pattern,
        "points": points,
        "protocol": protocol,
        "dataset": dataset,
        "scenes": scenes,
        "fold": fold,
        "bias": bias,
        "fold_files": fold_files,
        "present_from": present_from,
        "min_confidence": min_confidence,
        "splits": splits,
        "task": task,
        "partial": partial,
        "thin": thin,
        "pickles": pickles,
        "paths": paths,
        "channel": channel,
        "fps": fps,
        "timing": timing,
        "padding": padding,
        "modalities": modalities,
    }
    options = _reader_options(reader, module.read, given)
    if hasattr(module, "settled"):
        options |= module.settled(root, **_taken_by(module.settled, options))
    as_published = protocol == "published" or fold or reader == "prepared"
    default: Literal["drop", "report"] = "report" if as_published else getattr(module, "COPIES", "drop")
    copies = copies or default
    if protocol == "published" and copies != "report":
        raise WrongCall(
            "--protocol published makes copies of the test rows.", f"It does not go with --copies {copies}."
        )
    info: ReaderInfo = module.info(root) if hasattr(module, "info") else module.INFO
    in_sequences = hasattr(module, "CLIPS") or hasattr(module, "modalities")
    if features and not hasattr(module, "CLIPS"):
        raise WrongCall(f"reader '{reader}' has no option --features: it gives no clips to make features of.")
    if in_sequences:
        _refuse_picture_options(
            reader,
            align=align != "default",
            size=size is not None,
            margin=margin is not None,
            finder=finder != "mediapipe",
            fallback=fallback != "none",
            encoding=encoding != "auto",
            landmarks=landmarks is not None,
        )
        cropping = Alignment()
    else:
        cropping = _alignment(module.alignment(root, **_taken_by(module.alignment, options)), align, size, margin)
    with building(out, overwrite) as folder, Problems(folder / "problems.csv", skip_bad) as problems:
        labels = module.schema(root, **_taken_by(module.schema, options))
        found = _limited(module.read(root, **options), limit)
        found = without_own_split(found, valid_share, test_share, cross_validation)
        about: dict[str, Any]
        if in_sequences:
            samples, widths, about = _sequences(module, root, options, found, features, workers)
            rows, lengths = store_sequences(_watched(samples), folder, widths, problems)
        else:
            crops = cropped(found, Cropper(cropping, finder, encoding, fallback, _mesh(landmarks)), workers)
            rows, widths, lengths = store(_watched(_with_landmarks(crops, landmarks)), folder, problems), {}, {}
            about = {"alignment": _framing(module, root, cropping).to_dict()}
        if not len(rows):
            reasons = "; ".join(f"{reason} ({count})" for (_, reason), count in problems.counts.most_common(3))
            raise HonneError(f"{root}: no usable rows: {reasons or 'nothing there'}.", _advice(problems))
        notes = split_rows(rows, valid_share, test_share, cross_validation, seed)
        if hasattr(module, "notes"):
            notes += module.notes(root, **_taken_by(module.notes, options))
        if problems.counts["image", NO_FACE]:
            notes.append(_advice(problems))
        rows = without_leaks(rows, copies, subjects, problems, notes)
        notes += _landmark_notes(rows, landmarks) + ([PUBLISHED] if protocol == "published" else [])
        schema = DataSchema(
            name=f"{info.name} ({root.resolve().name})",
            reader=info.name,
            labels=labels,
            source=_source(root, info, module, options),
            licence=info.licence,
            options=options,
            version=__version__,
            **about,
        )
        write_manifest(folder, rows, schema)
        (folder / "card.md").write_text(
            card(info, schema, rows, problems, notes, sequence_table(rows, widths, lengths)), encoding="utf-8"
        )
    say(out, rows, labels, problems, notes)
    return SOME_FAILED if problems.failed else DONE


def _refuse_picture_options(reader: str, **given: bool) -> None:
    """Feature sequences have no picture to crop."""
    for name, is_given in given.items():
        if is_given:
            raise WrongCall(f"--{name} is for pictures; reader '{reader}' gives feature sequences.")


def _sequences(
    reader: ModuleType,
    root: Path,
    options: dict[str, Any],
    found: Iterable[Row | Bad],
    features: dict[str, str] | None,
    workers: int,
) -> tuple[Iterable[Row | Bad], dict[str, int], dict[str, Any]]:
    """Rows with sequences, modality -> number of features, and what the schema says of them."""
    if hasattr(reader, "CLIPS"):
        maker = ClipFeatures(features or {})
        return cropped(found, maker, workers), maker.extractor.widths, {"features": maker.extractor.settings}
    widths = reader.modalities(root, **_taken_by(reader.modalities, options))
    return found, widths, {"features": reader.features(root, **_taken_by(reader.features, options))}


def _framing(reader: Any, root: Path, cropping: Alignment) -> Alignment:
    """How the stored faces are framed, for analysis to do the same: as cropped here, or as they were delivered."""
    delivered: Alignment | None = (
        reader.framing(root) if hasattr(reader, "framing") else getattr(reader, "FRAMING", None)
    )
    if delivered is None:
        return cropping
    delivered = replace(delivered, size=cropping.size)  # resized they are framed the same
    return delivered if cropping == delivered.as_delivered() else cropping


def list_readers() -> None:
    """Say what every reader reads, what it expects, and who has the data."""
    console.say("honne prepare READER ROOT --out DATA\n")
    for name in readers.names():
        info = readers.get(name).INFO
        console.say(f"[bold]{name}[/bold]: {info.summary}.")
        for title, text in (("ROOT", info.expects), ("data", info.contact), ("licence", info.licence)):
            console.say(f"  {title:<8} {text}")


def _reader_options(reader: str, read: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Every option of the reader, as given or by default."""
    known = {name: p.default for name, p in inspect.signature(read).parameters.items() if p.kind is p.KEYWORD_ONLY}
    for name, value in given.items():
        if value is not None and name not in known:
            takes = ", ".join(f"--{option.replace('_', '-')}" for option in known) or "none of the readers' options"
            raise WrongCall(f"reader '{reader}' has no option --{name.replace('_', '-')}; it takes {takes}.")
    return {name: default if given.get(name) is None else given[name] for name, default in known.items()}


def _taken_by(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in inspect.signature(function).parameters if name in options}


def _alignment(default: Alignment, align: Align, size: int | None, margin: float | None) -> Alignment:
    chosen = default.kind if align == "default" else align
    kind = "points" if chosen == "dmue" else chosen
    template = TEMPLATES.get(chosen, ())
    if chosen == default.kind:
        template = default.template or template
    if margin is not None and kind != "box":
        raise WrongCall(f"--margin goes with --align box, not with {kind}.")
    if size is not None and size < SMALLEST:
        raise WrongCall(f"--size {size} is too small; {SMALLEST} px is the least.")
    return replace(default, kind=kind, size=size or default.size, margin=margin or default.margin, template=template)


def _mesh(landmarks: str | None) -> MeshLandmarks | None:
    return MeshLandmarks() if landmarks == "mesh" else None


def _with_landmarks(entries: Iterable[Stored | Bad], landmarks: str | None) -> Iterator[Stored | Bad]:
    """The entries; without landmarks, or with those of a file."""
    if landmarks in (None, "mesh"):
        yield from entries
        return
    file = None if landmarks == "none" else LandmarkFile(Path(str(landmarks)))
    for entry in entries:
        if isinstance(entry, Stored):
            entry.row.landmarks = None if file is None else file(entry.row.id.removeprefix("valid/"), entry.source)
        yield entry


def _landmark_notes(rows: pd.DataFrame, landmarks: str | None) -> list[str]:
    """How many rows have landmarks, in words; refuses a file that fits no row."""
    have = int(rows["landmarks"].notna().sum()) if "landmarks" in rows else 0
    if landmarks not in (None, "mesh", "none") and not have:
        raise HonneError(
            f"{landmarks}: no landmarks for any of the {len(rows)} rows (the first is {rows['id'].iloc[0]}).",
            "The paths in it must end as the ids or the pictures' paths do.",
        )
    if landmarks == "none" or not (have or landmarks):
        return []
    return [f"Landmarks: {have:,} of {len(rows):,} rows; {len(rows) - have:,} have none."]


def _limited(rows: Iterable[Row | Bad], limit: int | None) -> Iterator[Row | Bad]:
    counts: Counter[str | None] = Counter()
    for row in rows:
        if isinstance(row, Row) and limit is not None:
            counts[row.split] += 1
            if counts[row.split] > limit:
                continue
        yield row


def _watched(entries: Iterable[Made]) -> Iterator[Made]:
    with console.progress() as progress:
        task = progress.add_task("preparing", total=None)
        for entry in entries:
            yield entry
            progress.advance(task)


def _advice(problems: Problems) -> str:
    if problems.counts["image", NO_FACE]:
        return "Are the pictures face crops already? Then pass --align none."
    return "Check ROOT and the options."


def _source(root: Path, info: ReaderInfo, reader: ModuleType, options: dict[str, Any]) -> dict[str, str]:
    """Name of the root, and sha256 of the files with labels."""
    if root.is_file():
        return {"root": root.name, root.name: sha256(root)}
    if hasattr(reader, "files"):
        files = reader.files(root, **_taken_by(reader.files, options))
    else:
        files = sorted(path for pattern in info.label_files for path in root.glob(pattern))
    return {"root": root.resolve().name} | {path.relative_to(root).as_posix(): sha256(path) for path in files}
