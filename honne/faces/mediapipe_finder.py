"""The default finder: MediaPipe's two detectors over a pyramid of windows, then its attention mesh."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from honne.errors import HonneError
from honne.faces.face import Face
from honne.faces.mesh import face_from_mesh

NEAR_REACH, FAR_REACH = 7, 9
"""The detectors find faces of at least this part of their window's side (0.93 and 0.92 of those on photographs)."""
GROUP_REACH = 4.5
"""And nearly all (0.99) of those of at least this part, which is what thirty faces in one picture need."""
SMALLEST_FACE = 20
"""px; smaller faces are not searched for."""
LONE_WINDOW = 640
"""px; as long as no face was found, windows get no smaller than this, or than 0.36 of the image if that is less."""
CERTAIN = 0.7
"""Detector confidence of a first look from which a face tells what sizes to expect."""
SURE = 0.75
"""Detector confidence of a second look from which a face needs no third, mirrored one."""
FIT = 0.8
"""Largest distance between the key points of the first and the second look, in eye distances."""

MISSING = (
    "Finding faces needs MediaPipe 0.10.14.",
    "Install it with: pip install 'honne[face]', or name a finder that does without (yunet, table, cropped).",
)

_MESH_GRAPH = """
input_stream: "IMAGE:image"
input_stream: "ROI:roi"
input_side_packet: "WITH_ATTENTION:with_attention"
output_stream: "LANDMARKS:landmarks"
node {
  calculator: "FaceLandmarkCpu"
  input_stream: "IMAGE:image"
  input_stream: "ROI:roi"
  input_side_packet: "WITH_ATTENTION:with_attention"
  output_stream: "LANDMARKS:landmarks"
}
"""
_DETECTOR_GRAPH = "mediapipe/modules/face_detection/face_detection_{}_range_cpu.binarypb"

_stderr = threading.RLock()
_processes: set[int] = set()


@dataclass
class Detection:
    """What the detector says about one face: confidence, (4,) box and (6, 2) key points, px.

    The key points are image-left eye, image-right eye, nose tip, mouth, image-left and image-right ear.
    """

    score: float
    box: np.ndarray
    points: np.ndarray


@dataclass
class MediaPipeFinder:
    """Finds faces; each image by itself, so that chunks and order cannot change results.

    First look: the short-range detector on the whole image; then windows of 0.6 of the side and so on, as long as no
    face was found (here with the slower full-range detector) or some found are small for their window (a group).
    Second look: the short-range detector on each candidate, centred, which gives its score and where the mesh starts.
    Unsure ones get a third look, mirrored: letters and clouds that resemble a face seldom do so both ways. Last, the
    mesh can deny the face.

    Any number of threads may call `find` at once: each gets its own graphs (about 0.1 s, once per thread).

    Args:
        max_faces: keep this many, largest first.
        min_score: smallest `Face.score`, 0..1. The detector gives up below a confidence of 0.5, which is a score of
            0.34, so smaller values change nothing.
    """

    max_faces: int = 50
    min_score: float = 0.5
    _threads: threading.local = field(default_factory=threading.local, repr=False)

    def __post_init__(self) -> None:
        if find_spec("mediapipe") is None:
            raise HonneError(*MISSING)

    def find(self, image: np.ndarray) -> list[Face]:
        """Faces of an (H, W, 3) uint8 RGB image, largest first."""
        graphs: _Graphs | None = getattr(self._threads, "graphs", None)
        if graphs is None or graphs.process != os.getpid():
            graphs = self._threads.graphs = _Graphs()
        faces: list[Face] = []
        for candidate in _candidates(graphs, image):
            look = _second_look(graphs, image, candidate)
            if look is None or look.score < self.min_score:
                continue
            mesh = graphs.mesh(image, look)
            if mesh is not None:
                faces.append(face_from_mesh(mesh, look.score))
        faces = without_doubles(faces, 0.4)
        return sorted(faces, key=lambda face: -face.box[2] * face.box[3])[: self.max_faces]


def overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two (4,) boxes (x, y, width, height)."""
    corner = np.minimum(box[:2] + box[2:], other[:2] + other[2:])
    common = np.prod(np.maximum(corner - np.maximum(box[:2], other[:2]), 0))
    union = np.prod(box[2:]) + np.prod(other[2:]) - common
    return float(common / union) if union else 0.0


def without_doubles(found: list[Any], most: float) -> list[Any]:
    """Things with `box` and `score`, best first, none overlapping a better one by more than `most`."""
    kept: list[Any] = []
    for one in sorted(found, key=lambda one: -one.score):
        if all(overlap(one.box, other.box) <= most for other in kept):
            kept.append(one)
    return kept


def _candidates(graphs: _Graphs, image: np.ndarray) -> list[Detection]:
    height, width = image.shape[:2]
    side = max(height, width)
    lone = max(min(LONE_WINDOW, int(0.36 * side)), SMALLEST_FACE)
    group = max(NEAR_REACH * SMALLEST_FACE, side // 32)
    found, reach = graphs.near(image), NEAR_REACH
    # Where the smallest face found is well above the smallest that this level shows, none was missed; in a group more
    # so. A doubtful one does not count: a group looks to the detector like one large, doubtful face.
    while not (certain := [one.box[2] for one in found if one.score > CERTAIN]) or min(certain) < side / (
        reach if len(certain) == 1 else GROUP_REACH
    ):
        side = int(0.6 * side)
        if side < (group if certain else lone):
            break
        detect, reach = (graphs.near, NEAR_REACH) if certain else (graphs.far, FAR_REACH)
        for x, y in _window_corners(height, width, side):
            found += [_moved(one, x, y) for one in detect(image[y : y + side, x : x + side])]
        found = without_doubles(found, 0.3)
    return found or _zoomed_out(graphs, image)


def _window_corners(height: int, width: int, side: int) -> Iterator[tuple[int, int]]:
    """Corners of windows that overlap by at least 0.3 of their side: faces too large for that show a level earlier."""

    def starts(extent: int) -> list[int]:
        rest = max(extent - side, 0)
        return np.linspace(0, rest, int(np.ceil(rest / (0.7 * side))) + 1).astype(int).tolist()

    return ((x, y) for y in starts(height) for x in starts(width))


def _zoomed_out(graphs: _Graphs, image: np.ndarray) -> list[Detection]:
    """A picture that is all face has to be set on a ground half as large again before the detector sees the face."""
    height, width = image.shape[:2]
    margin = max(height, width) // 4
    ground = _part(image, -margin, -margin, width + 2 * margin, height + 2 * margin)
    return [_moved(one, -margin, -margin) for one in graphs.near(ground)]


def _second_look(graphs: _Graphs, image: np.ndarray, first: Detection) -> Detection | None:
    second = _centred_look(graphs, image, first, mirrored=False)
    if second is None:
        return None
    eyes = np.linalg.norm(second.points[1] - second.points[0]) + 1e-6
    if np.linalg.norm(second.points[:4] - first.points[:4], axis=1).mean() > FIT * eyes:
        return None
    if second.score < SURE:
        third = _centred_look(graphs, image, first, mirrored=True)
        second.score = (second.score + (third.score if third else 0.0)) / 2
    # Stretched so that a half parts faces from things like faces; see docs/faces.md for the trial.
    second.score = float(np.clip((second.score - 0.24) / 0.76, 0, 1))
    return second


def _centred_look(graphs: _Graphs, image: np.ndarray, first: Detection, mirrored: bool) -> Detection | None:
    """The detector's answer to a window twice as large as the face, around it."""
    centre, half = first.box[:2] + first.box[2:] / 2, int(np.ceil(first.box[2:].max()))
    x, y = np.floor(centre).astype(int) - half
    part = _part(image, x, y, 2 * half, 2 * half)
    looks = graphs.near(part[:, ::-1] if mirrored else part)
    if mirrored:
        for look in looks:
            look.box[0] = 2 * half - look.box[0] - look.box[2]
    looks = [_moved(look, x, y) for look in looks]
    looks = [look for look in looks if overlap(look.box, first.box) > 0.25]
    return max(looks, key=lambda look: look.score, default=None)


def _part(image: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """A part of the image, black where it reaches outside."""
    inside = image[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)]
    if inside.shape[:2] == (height, width):
        return inside
    part = np.zeros((height, width, 3), np.uint8)
    top, left = max(-y, 0), max(-x, 0)
    part[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return part


def _moved(detection: Detection, x: float, y: float) -> Detection:
    detection.box[:2] += (x, y)
    detection.points += (x, y)
    return detection


class _Graphs:
    """Detector and mesh of one thread."""

    def __init__(self) -> None:
        self.process = os.getpid()
        if _processes - {self.process}:  # MediaPipe would abort the process
            raise HonneError(
                "MediaPipe cannot find faces in a process forked from one where it did.",
                "Start processes by 'spawn', or find faces in threads.",
            )
        _processes.add(self.process)
        mp = mediapipe_package()
        from mediapipe.framework.formats.rect_pb2 import NormalizedRect

        self._mp, self._rectangle = mp, NormalizedRect
        root = Path(mp.__file__).parents[1]
        blank = np.zeros((256, 256, 3), np.uint8)
        # The graphs report what they are made of to the process's standard error, past Python, until their first run.
        with silenced():
            mp.resource_util.set_resource_dir(str(root))
            attention = {"with_attention": mp.packet_creator.create_bool(True)}
            near, far = (str(root / _DETECTOR_GRAPH.format(name)) for name in ("short", "full"))
            self._near = _Graph(mp, "detections", {}, binary_graph_path=near)
            self._far = _Graph(mp, "detections", {}, binary_graph_path=far)
            self._mesh = _Graph(mp, "landmarks", attention, graph_config=_MESH_GRAPH)
            self.near(blank), self.far(blank)
            self.mesh(blank, Detection(1.0, np.array([80, 80, 96, 96.0]), np.array([[110, 110], [146, 110.0]])))

    def near(self, image: np.ndarray) -> list[Detection]:
        """Faces of a sixth to the whole of the image's longer side, precisely; px of this image; 2 ms."""
        return self._detect(self._near, image, 256)

    def far(self, image: np.ndarray) -> list[Detection]:
        """Faces of a ninth to half of the image's longer side, roughly; px of this image; 5 ms."""
        return self._detect(self._far, image, 384)

    def _detect(self, graph: _Graph, image: np.ndarray, longest: int) -> list[Detection]:
        # The graphs shrink to 128 and 192 px themselves, but not carefully.
        packet = graph.run(image=self._packet(_shrunk(image, longest)))
        if packet is None:
            return []
        extent = np.array([image.shape[1], image.shape[0]], float)
        return [_detection(one, extent) for one in self._mp.packet_getter.get_proto_list(packet)]

    def mesh(self, image: np.ndarray, face: Detection) -> np.ndarray | None:
        """(478, 3) px, or None if the mesh sees no face there."""
        centre, side = face.box[:2] + face.box[2:] / 2, 1.5 * face.box[2:].max()
        eyes = face.points[1] - face.points[0]
        # The turned square fits into this upright part; a part is cheaper to hand over than the whole image.
        half = int(np.ceil(0.75 * side)) + 1
        x, y = np.floor(centre).astype(int) - half
        part = _shrunk(_part(image, x, y, 2 * half, 2 * half), 512)
        middle = (centre - (x, y)) / (2 * half)
        rectangle = self._rectangle(
            x_center=middle[0],
            y_center=middle[1],
            width=side / (2 * half),
            height=side / (2 * half),
            rotation=float(np.arctan2(eyes[1], eyes[0])),
        )
        packet = self._mesh.run(image=self._packet(part), roi=self._mp.packet_creator.create_proto(rectangle))
        if packet is None:
            return None
        landmarks = self._mp.packet_getter.get_proto(packet).landmark
        mesh = np.array([(point.x, point.y, point.z) for point in landmarks]) * (2 * half)
        mesh[:, :2] += (x, y)
        return mesh

    def _packet(self, image: np.ndarray) -> Any:
        mp = self._mp
        return mp.packet_creator.create_image(
            mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(image))
        )


class _Graph:
    """One MediaPipe graph, run synchronously on unrelated images."""

    def __init__(self, mp: Any, output: str, side_packets: dict[str, Any], **graph: str) -> None:
        self._graph = mp.CalculatorGraph(**graph)
        self._graph.observe_output_stream(output, self._keep)
        self._graph.start_run(side_packets)
        self._stamp = 0
        self._answer: Any = None

    def _keep(self, _stream: str, packet: Any) -> None:
        self._answer = packet

    def run(self, **packets: Any) -> Any:
        """The output packet, or None if the graph gave none."""
        self._stamp += 1
        self._answer = None
        for stream, packet in packets.items():
            self._graph.add_packet_to_input_stream(stream, packet.at(self._stamp))
        self._graph.wait_until_idle()
        return self._answer


def _detection(proto: Any, extent: np.ndarray) -> Detection:
    place = proto.location_data
    box = place.relative_bounding_box
    points = np.array([(point.x, point.y) for point in place.relative_keypoints]) * extent
    return Detection(proto.score[0], np.array([box.xmin, box.ymin, box.width, box.height]) * np.tile(extent, 2), points)


def _shrunk(image: np.ndarray, longest: int) -> np.ndarray:
    import cv2

    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def mediapipe_package() -> Any:
    """The module, imported without its chatter; raises `HonneError` where it, or its models, are missing."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    warnings.filterwarnings("ignore", message=r"SymbolDatabase\.GetPrototype", category=UserWarning)
    try:
        with silenced():
            import mediapipe
    except ImportError:
        raise HonneError(*MISSING) from None
    if not hasattr(mediapipe, "solutions"):
        raise HonneError(
            f"MediaPipe {mediapipe.__version__} comes without its models.", "Install: pip install 'honne[face]'."
        )
    return mediapipe


@contextmanager
def silenced() -> Iterator[None]:
    """Send the process's standard error to nowhere, below Python."""
    with _stderr:
        kept = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(nowhere)
            os.close(kept)
