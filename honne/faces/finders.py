"""Everything that finds faces, by name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from honne.errors import HonneError, WrongCall
from honne.faces.face import Face, FaceFinder
from honne.faces.mediapipe_finder import MediaPipeFinder, mediapipe_package, silenced
from honne.faces.mesh import face_from_mesh
from honne.faces.precomputed import TableFinder

T = TypeVar("T")
YUNET_SIDE = 960
"""px; larger images are shrunk, since YuNet sees faces of about 10 to 300 px."""


@runtime_checkable
class FrameFinder(Protocol):
    """A finder that has to know which frame of what it looks at, such as a table of faces found before."""

    def find_in(self, source: str, index: int, image: np.ndarray) -> list[Face]:
        """Faces of frame `index` of the medium `source`, largest first."""
        ...


def finder(name: str = "mediapipe", *, max_faces: int = 50, min_score: float = 0.5) -> FaceFinder:
    """A face finder. Making one is cheap (models load on the first image); any number of threads may share it.

    Args:
        name: one of
            `mediapipe`: the default; boxes, 478-point mesh, 68 landmarks, five points, pose;
            `tasks:PATH`: MediaPipe's newer interface with a face landmarker `.task` file; the same answers;
            `yunet:PATH`: OpenCV's FaceDetectorYN with an ONNX file; boxes and five points;
            `table:PATH`: faces found before, a CSV or Parquet file (see `honne.faces.precomputed`);
            `cropped`: the whole image is one face.
        max_faces: keep this many, largest first.
        min_score: smallest detector confidence, 0..1.

    Raises:
        HonneError: the file is not there or is not what it should be, or a package is missing.
        WrongCall: there is no finder of this name.
    """
    kind, _, path = name.partition(":")
    if name == "mediapipe":
        return MediaPipeFinder(max_faces, min_score)
    if name == "cropped":
        return CroppedFinder()
    kinds: dict[str, Callable[[str, int, float], FaceFinder]] = {
        "tasks": TasksFinder,
        "yunet": YuNetFinder,
        "table": TableFinder,
    }
    if kind not in kinds or not path:
        raise WrongCall(
            f"There is no face finder '{name}'.", "Choose mediapipe, tasks:PATH, yunet:PATH, table:PATH or cropped."
        )
    if not Path(path).is_file():
        raise HonneError(f"{path}: no such file, so the face finder '{kind}' cannot start.", "Check the path.")
    return kinds[kind](path, max_faces, min_score)


def find_faces(finder: FaceFinder, source: str, index: int, image: np.ndarray) -> list[Face]:
    """Ask any finder for the faces of one frame, telling those that want to know which frame it is."""
    if isinstance(finder, FrameFinder):
        return finder.find_in(source, index, image)
    return finder.find(image)


class CroppedFinder:
    """For pictures that are faces already: the whole image is the box. Nothing is known about points or pose."""

    def find(self, image: np.ndarray) -> list[Face]:
        """One face: the image."""
        height, width = image.shape[:2]
        return [Face(np.array([0, 0, width, height], float))]


class _PerThread(Generic[T]):
    """Something that threads cannot share, made for each on first use."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._own = threading.local()

    def get(self) -> T:
        if not hasattr(self._own, "value"):
            self._own.value = self._make()
        return self._own.value


@dataclass
class YuNetFinder:
    """OpenCV's FaceDetectorYN with a YuNet file of the user's.

    Args:
        path: the ONNX file.
        max_faces: keep this many, largest first.
        min_score: smallest detector confidence, 0..1.
    """

    path: str
    max_faces: int = 50
    min_score: float = 0.5
    _detector: _PerThread[Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._detector = _PerThread(self._make)
        self._detector.get()  # a wrong file shows at once

    def _make(self) -> Any:
        try:
            import cv2
        except ImportError:
            raise HonneError(
                "The face finder 'yunet' needs OpenCV.", "Install it with: pip install opencv-python"
            ) from None
        try:
            return cv2.FaceDetectorYN.create(self.path, "", (320, 320), self.min_score, 0.3, 5000)
        except cv2.error:
            raise HonneError(
                f"{self.path}: OpenCV {cv2.__version__} cannot use this file as a YuNet face detector.",
                "Take the file that belongs to this OpenCV release from the OpenCV model zoo.",
            ) from None

    def find(self, image: np.ndarray) -> list[Face]:
        """Faces of an (H, W, 3) uint8 RGB image, largest first."""
        import cv2

        height, width = image.shape[:2]
        scale = min(YUNET_SIDE / max(height, width), 1.0)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        small = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
        detector = self._detector.get()
        detector.setInputSize(size)
        _, found = detector.detect(small)
        # A row: box, five points (image-left eye first), confidence.
        rows = np.zeros((0, 15)) if found is None else np.asarray(found, float)
        back = np.array([width / size[0], height / size[1]])
        faces = [
            Face(box=row[:4] * np.tile(back, 2), score=float(row[14]), points=row[4:14].reshape(5, 2) * back)
            for row in rows
        ]
        return largest(faces, self.max_faces)


@dataclass
class TasksFinder:
    """MediaPipe's Tasks interface with a face landmarker bundle of the user's; it finds large faces only.

    Args:
        path: the `.task` file.
        max_faces: look for at most this many.
        min_score: smallest confidence of detector and mesh, 0..1. The interface does not tell it, so faces have 1.
    """

    path: str
    max_faces: int = 50
    min_score: float = 0.5
    _landmarker: _PerThread[Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._landmarker = _PerThread(self._make)
        self._landmarker.get()  # a wrong file shows at once

    def _make(self) -> Any:
        mp = mediapipe_package()
        tasks = mp.tasks
        options = tasks.vision.FaceLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_path=self.path),
            num_faces=self.max_faces,
            min_face_detection_confidence=self.min_score,
            min_face_presence_confidence=self.min_score,
        )
        try:
            with silenced():
                return tasks.vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError):
            raise HonneError(
                f"{self.path}: MediaPipe {mp.__version__} cannot use this file as a face landmarker.",
                "Name a face_landmarker.task bundle.",
            ) from None

    def find(self, image: np.ndarray) -> list[Face]:
        """Faces of an (H, W, 3) uint8 RGB image, largest first."""
        mp = mediapipe_package()
        picture = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(image))
        height, width = image.shape[:2]
        found = self._landmarker.get().detect(picture).face_landmarks
        meshes = (np.array([(point.x, point.y, point.z) for point in one]) * (width, height, width) for one in found)
        return largest([face_from_mesh(mesh) for mesh in meshes], self.max_faces)


def largest(faces: list[Face], most: int) -> list[Face]:
    """At most so many faces, by box area, largest first."""
    return sorted(faces, key=lambda face: -face.box[2] * face.box[3])[:most]
