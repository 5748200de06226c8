"""How close the mesh's 68-point equivalents come to annotated iBUG points, and how many of the faces are found.

    python benchmarks/landmarks68.py FOLDER

FOLDER holds the pictures and an XML file in dlib's format (`training_with_face_landmarks.xml`). The error of a face is
the mean distance of its 68 points from the annotated ones over the distance of the outer eye corners (inter-ocular
distance, as on 300-W). The annotations that come with dlib are its own shape predictor's, rounded to whole px: on faces
of 37 px they are uncertain by 0.02 to 0.04 themselves.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from honne.faces.face import Face
from honne.faces.finders import finder
from honne.faces.media import read_image

PARTS = {"jaw": (0, 17), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68)}


def annotated(folder: Path) -> Iterator[tuple[Path, list[np.ndarray]]]:
    """Pictures and the (68, 2) px landmarks of their faces."""
    document = next(iter(sorted(folder.glob("*.xml"))), None)
    if document is None:
        raise SystemExit(f"{folder}: no XML file with landmarks.")
    for image in ElementTree.parse(document).getroot().iter("image"):
        faces = []
        for box in image.iter("box"):
            points = sorted((int(part.attrib["name"]), part) for part in box.iter("part"))
            if len(points) == 68:
                faces.append(np.array([(float(part.attrib["x"]), float(part.attrib["y"])) for _, part in points]))
        yield folder / image.attrib["file"], faces


def match(faces: list[Face], points: np.ndarray) -> Face | None:
    """The found face nearest to an annotated one, if their centres are closer than half the annotated width."""
    width = np.ptp(points[:, 0])
    distances = [float(np.linalg.norm(face.landmarks.mean(0) - points.mean(0))) for face in faces]
    best = int(np.argmin(distances)) if distances else -1
    return faces[best] if best >= 0 and distances[best] < width / 2 else None


def main() -> None:
    """Print a row per annotated face, then the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--finder", default="mediapipe")
    options = parser.parse_args()
    faces_of = finder(options.finder)
    errors, count, more = [], 0, 0
    print(f"{'picture':<20} {'width':>6} {'yaw':>5} {'error':>7}")
    for path, known in annotated(options.folder):
        found = faces_of.find(read_image(path))
        more += max(len(found) - len(known), 0)
        for points in known:
            count += 1
            face = match(found, points)
            if face is None:
                print(f"{path.name:<20} {np.ptp(points[:, 0]):>6.0f}     - not found")
                continue
            between = np.linalg.norm(points[45] - points[36])
            errors.append(np.linalg.norm(face.landmarks - points, axis=1) / between)
            yaw = "-" if face.pose is None else f"{face.pose[0]:.0f}"
            print(f"{path.name:<20} {np.ptp(points[:, 0]):>6.0f} {yaw:>5} {errors[-1].mean():>7.3f}")
    print(f"\nfound {len(errors)} of {count} faces, and {more} more than annotated")
    if errors:
        table = np.stack(errors)
        per_face = table.mean(1)
        print(f"mean error {per_face.mean():.4f}, median {np.median(per_face):.4f}, worst {per_face.max():.4f}")
        print("by part: " + ", ".join(f"{name} {table[:, a:b].mean():.4f}" for name, (a, b) in PARTS.items()))


if __name__ == "__main__":
    main()
