"""Finding faces: the default finder on a real photograph, the mesh's other terms, tables of faces found before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from honne.errors import HonneError, WrongCall
from honne.faces.face import Face, FaceFinder
from honne.faces.finders import find_faces, finder
from honne.faces.mesh import FIVE_POINTS, FRONTAL, LANDMARKS_68, five_points, head_pose

pytestmark = pytest.mark.filterwarnings("ignore:SymbolDatabase")  # MediaPipe's use of protobuf

BLANK = np.zeros((120, 160, 3), np.uint8)


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    """512 x 512 px, one face at about (180, 65) to (270, 170)."""
    return pytest.importorskip("skimage.data").astronaut()


@pytest.fixture(scope="module")
def default() -> FaceFinder:
    pytest.importorskip("mediapipe")
    return finder()


@pytest.fixture(scope="module")
def portrait(default: FaceFinder, astronaut: np.ndarray) -> Face:
    [face] = default.find(astronaut)
    return face


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """What `head_pose` says a pose is: roll about the nose, then pitch, then yaw; x right, y down, z away."""
    a, b, c = np.radians([yaw, pitch, roll])
    turned = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    lifted = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    tilted = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return turned @ lifted @ tilted


def test_one_face_with_everything_about_it(portrait: Face) -> None:
    x, y, width, height = portrait.box
    assert (abs(x - 180) < 8, abs(y - 68) < 8, 75 < width < 100, 90 < height < 115) == (True,) * 4
    assert 0.8 < portrait.score <= 1
    assert portrait.mesh.shape == (478, 3)
    assert portrait.landmarks.shape == (68, 2)
    # The pupils, the nose and the mouth corners as one sees them in the picture.
    np.testing.assert_allclose(portrait.points, [[203, 101], [246, 103], [223, 131], [202, 139], [246, 140]], atol=4)
    np.testing.assert_allclose(five_points(portrait.landmarks), portrait.points, atol=5)
    assert np.abs(portrait.pose).max() < 10


def test_turned_pictures(default: FaceFinder, astronaut: np.ndarray, portrait: Face) -> None:
    for degrees in (-30, 30):
        turned = np.asarray(Image.fromarray(astronaut).rotate(-degrees, center=(227, 115)))
        [face] = default.find(turned)
        assert face.pose[2] - portrait.pose[2] == pytest.approx(degrees, abs=5)
    [mirrored] = default.find(astronaut[:, ::-1])
    np.testing.assert_allclose(mirrored.pose, portrait.pose * [-1, 1, -1], atol=4)


def test_thirty_small_faces_and_one_that_fills_the_picture(default: FaceFinder, astronaut: np.ndarray) -> None:
    head = Image.fromarray(astronaut[30:190, 140:310])
    small = np.asarray(head.resize((100, 94), Image.Resampling.LANCZOS))
    assert len(default.find(np.tile(small, (5, 6, 1)))) == 30
    lone = np.full((360, 640, 3), 120, np.uint8)
    lone[200:257, 430:490] = np.asarray(head.resize((60, 57), Image.Resampling.LANCZOS))
    assert len(default.find(lone)) == 1
    for side in (48, 300):
        filled = np.asarray(Image.fromarray(astronaut[62:172, 172:282]).resize((side, side)))
        assert len(default.find(filled)) == 1


def test_no_face_where_there_is_none(default: FaceFinder) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    for image in (BLANK, noise, BLANK[:1, :1], BLANK[:3], np.zeros((5, 2000, 3), np.uint8)):
        assert default.find(image) == []
    assert default.find(np.repeat(pytest.importorskip("skimage.data").text()[..., None], 3, axis=2)) == []


def test_the_answer_depends_on_the_image_alone(astronaut: np.ndarray, portrait: Face, default: FaceFinder) -> None:
    shifted = np.roll(astronaut, 40, axis=1)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(default.find, [astronaut, shifted, BLANK, astronaut, shifted, astronaut]))
    assert [len(faces) for faces in found] == [1, 1, 0, 1, 1, 1]
    for faces in (found[0], found[3], found[5], finder("mediapipe").find(astronaut)):
        np.testing.assert_array_equal(faces[0].mesh, portrait.mesh)
    np.testing.assert_array_equal(found[1][0].mesh, found[4][0].mesh)


def test_limits_and_silence(astronaut: np.ndarray, default: FaceFinder, capfd: pytest.CaptureFixture[str]) -> None:
    two = np.hstack(
        [astronaut[:220, 100:350], np.asarray(Image.fromarray(astronaut[:220, 100:350]).resize((375, 330)))[:220]]
    )
    faces = default.find(two)
    assert len(faces) == 2
    assert faces[0].box[2] > faces[1].box[2]
    assert len(finder(max_faces=1).find(two)) == 1
    assert finder(min_score=0.99).find(two) == []
    assert "".join(capfd.readouterr()) == ""


def test_tables_have_one_vertex_each() -> None:
    assert len(LANDMARKS_68) == len(set(LANDMARKS_68)) == 68
    assert len(FIVE_POINTS) == 5
    mirrored = {tuple(np.round(np.array(point) * [-1, 1, 1], 3) + 0.0) for point in FRONTAL.values()}
    assert mirrored == {tuple(np.array(point) + 0.0) for point in FRONTAL.values()}


@pytest.mark.parametrize(
    "angles", [(0, 0, 0), (40, 0, 0), (-40, 0, 0), (0, 25, 0), (0, -25, 0), (0, 0, 25), (0, 0, -25)]
)
def test_head_pose_of_a_turned_mesh(portrait: Face, angles: tuple[float, ...]) -> None:
    assert np.abs(portrait.pose).max() < 5  # she looks into the camera
    turned = portrait.mesh @ rotation(*angles).T * 1.7 + (300, 40, -9)
    np.testing.assert_allclose(head_pose(turned), angles, atol=5)
    nose = turned[1, :2] - turned[[234, 454], :2].mean(0)
    if angles[0]:
        assert np.sign(nose[0]) == np.sign(angles[0])


def test_head_pose_of_every_combination() -> None:
    mesh = np.zeros((478, 3))
    mesh[list(FRONTAL)] = list(FRONTAL.values())
    for yaw in (-40, 0, 40):
        for pitch in (-25, 0, 25):
            for roll in (-25, 0, 25):
                turned = 80 * mesh @ rotation(yaw, pitch, roll).T
                np.testing.assert_allclose(head_pose(turned), (yaw, pitch, roll), atol=1e-6)


def test_the_whole_image_as_the_face() -> None:
    [face] = finder("cropped").find(BLANK)
    assert face.box.tolist() == [0, 0, 160, 120]
    assert face.points is None


@pytest.mark.parametrize("name", ["nobody", "tasks:", "mediapipe:x", "table"])
def test_unknown_finders(name: str) -> None:
    with pytest.raises(WrongCall, match=name):
        finder(name)


@pytest.mark.parametrize("kind", ["tasks", "yunet", "table"])
def test_files_that_are_missing_or_something_else(kind: str, tmp_path: Path) -> None:
    with pytest.raises(HonneError, match="no such file"):
        finder(f"{kind}:{tmp_path / 'missing.bin'}")
    if kind != "table":
        pytest.importorskip("mediapipe")
    wrong = tmp_path / "wrong.bin"
    wrong.write_bytes(b"\x80\x81 not a model")
    with pytest.raises(HonneError, match=r"wrong\.bin") as error:
        finder(f"{kind}:{wrong}")
    assert error.value.hint


def test_tasks_bundle(tmp_path: Path, astronaut: np.ndarray) -> None:
    """A bundle of the older models in the wheel: it runs, but orders its mesh otherwise, so only the place counts."""
    modules = Path(pytest.importorskip("mediapipe").__file__).parent / "modules"
    with ZipFile(tmp_path / "old.task", "w") as bundle:
        bundle.write(modules / "face_detection/face_detection_short_range.tflite", "face_detector.tflite")
        bundle.write(modules / "face_landmark/face_landmark.tflite", "face_landmarks_detector.tflite")
    faces = finder(f"tasks:{tmp_path / 'old.task'}", max_faces=3)
    [face] = faces.find(astronaut)
    assert face.mesh.shape == (478, 3)
    assert np.linalg.norm(np.median(face.mesh[:, :2], axis=0) - (225, 120)) < 40
    assert faces.find(BLANK) == []


def test_yunet_rows_become_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2")
    rows = np.array([[10, 20, 30, 40, *range(10), 0.9], [0, 0, 60, 60, *range(10), 0.8]], np.float32)

    class Detector:
        @staticmethod
        def create(*_: object) -> Detector:
            return Detector()

        def setInputSize(self, size: tuple[int, int]) -> None:
            assert size == (960, 480)

        def detect(self, image: np.ndarray) -> tuple[int, np.ndarray]:
            assert image.shape == (480, 960, 3)
            return 1, rows

    monkeypatch.setattr(cv2, "FaceDetectorYN", Detector)
    (tmp_path / "yunet.onnx").touch()
    first, second = finder(f"yunet:{tmp_path / 'yunet.onnx'}").find(np.zeros((960, 1920, 3), np.uint8))
    assert first.box.tolist() == [0, 0, 120, 120]
    assert second.box.tolist() == [20, 40, 60, 80]
    assert (second.score, second.points[4].tolist()) == (pytest.approx(0.9), [16, 18])


def landmark_columns(count: int, prefix: str = "") -> dict[str, np.ndarray]:
    points = np.random.default_rng(0).uniform(100, 200, (count, 68, 2))
    return {f"{prefix}{axis}_{number}": points[:, number, "xy".index(axis)] for axis in "xy" for number in range(68)}


def test_openface_table(tmp_path: Path) -> None:
    success, confidence = [1, 1, 0, 1], [0.98, 0.95, 0.9, 0.2]
    table = {"frame": [1, 2, 3, 4], " timestamp": 0.0, " confidence": confidence, " success": success}
    columns = landmark_columns(4, " ")
    pd.DataFrame({**table, **columns}).to_csv(tmp_path / "clip.csv", index=False)
    faces = finder(f"table:{tmp_path / 'clip.csv'}")
    [face] = find_faces(faces, "/films/clip.mp4", 0, BLANK)
    assert face.score == 0.98
    assert face.landmarks[67].tolist() == [columns[" x_67"][0], columns[" y_67"][0]]
    np.testing.assert_allclose(face.points, five_points(face.landmarks))
    low, high = face.landmarks.min(0), face.landmarks.max(0)
    assert (face.box[0], face.box[1] < low[1]) == (low[0], True)
    np.testing.assert_allclose(face.box[:2] + face.box[2:], high)
    assert [len(find_faces(faces, "clip.mp4", frame, BLANK)) for frame in range(5)] == [1, 1, 0, 0, 0]
    with pytest.raises(HonneError, match=r"says nothing about other\.mp4"):
        find_faces(faces, "other.mp4", 0, BLANK)
    with pytest.raises(HonneError, match="named files"):
        faces.find(BLANK)


def test_pyfeat_table(tmp_path: Path) -> None:
    boxes = {"FaceRectX": [10, 60, np.nan], "FaceRectY": 5.0, "FaceRectWidth": [20, 30, 1], "FaceRectHeight": 30.0}
    rows = {"frame": [0, 0, 1], **boxes, "FaceScore": [0.9, 0.8, np.nan], "input": "/data/clip.mp4"}
    pd.DataFrame({**rows, **landmark_columns(3)}).to_csv(tmp_path / "feat.csv", index=False)
    faces = finder(f"table:{tmp_path / 'feat.csv'}")
    found = find_faces(faces, "elsewhere/clip.mp4", 0, BLANK)
    assert [face.box.tolist() for face in found] == [[60, 5, 30, 30], [10, 5, 20, 30]]
    assert find_faces(faces, "elsewhere/clip.mp4", 1, BLANK) == []


def test_general_table(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {"source": ["a/1.png", "b/1.png", "b/2.png"], "box_x": [1, 2, 3], "box_y": 4, "box_w": 50, "box_h": 60}
    )
    rows.to_parquet(tmp_path / "faces.parquet")
    faces = finder(f"table:{tmp_path / 'faces.parquet'}")
    [face] = find_faces(faces, "b/1.png", 0, BLANK)
    assert face.box.tolist() == [2, 4, 50, 60]
    assert face.landmarks is None
    assert ((face.points > face.box[:2]) & (face.points < face.box[:2] + face.box[2:])).all()
    assert find_faces(faces, "elsewhere/2.png", 0, BLANK)[0].box[0] == 3
    with pytest.raises(HonneError, match="several files like"):
        find_faces(faces, "elsewhere/1.png", 0, BLANK)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read as a table"),
        (b"frame,x\n1,2\n", "neither boxes nor landmarks"),
        (b"box_x,box_y,box_w,box_h\n1,2,3,4\n1,two,3,4\n", "row 3, column box_y: 'two'"),
        ("source,box_x,box_y,box_w,box_h\ncafé,2,3,4,5\n".encode("latin-1"), "not in UTF-8"),
    ],
)
def test_broken_tables(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "faces.csv"
    file.write_bytes(content)
    with pytest.raises(HonneError, match=said) as error:
        finder(f"table:{file}")
    assert "faces.csv" in error.value.what
