"""Pictures, videos and cameras: every kind is read, and every broken one gets its sentence."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from honne.errors import HonneError, WrongCall
from honne.faces.media import MAX_PIXELS, list_inputs, open_media, read_image

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """80 x 60 coloured squares."""
    squares = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(squares.repeat(10, 0).repeat(10, 1))


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def difference(data: bytes, picture: Image.Image) -> float:
    image = read_image(data)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert image.shape == (picture.height, picture.width, 3)
    return float(np.abs(image - np.asarray(picture.convert("RGB"), float)).mean())


def png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG of 16-bit RGB rows, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_colour_modes(picture: Image.Image) -> None:
    assert difference(encoded(picture), picture) == 0
    assert difference(encoded(picture.convert("CMYK"), "JPEG", quality=95), picture) < 2
    assert difference(encoded(picture.convert("CMYK"), "TIFF"), picture) < 2
    assert difference(encoded(picture.convert("L")), picture.convert("L")) == 0
    assert difference(encoded(picture.convert("P")), picture.convert("P")) == 0
    assert difference(encoded(picture.convert("1")), picture.convert("1")) == 0
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in np.asarray(picture))
    assert difference(png(80, 60, rows), picture) == 0


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_and_other_numbers(picture: Image.Image, form: str) -> None:
    grey = picture.convert("L")
    values = np.asarray(grey).astype(np.uint16) * 257
    assert difference(encoded(Image.fromarray(values), form), grey) == 0
    if form == "TIFF":
        assert difference(encoded(Image.fromarray(values.astype(np.int32)), form), grey) == 0
        assert difference(encoded(Image.fromarray((values / 65535).astype(np.float32)), form), grey) < 1


def test_transparent_parts_become_white(picture: Image.Image) -> None:
    cut_out = picture.convert("RGBA")
    alpha = np.full((60, 80), 255, np.uint8)
    alpha[:, :40] = 0
    cut_out.putalpha(Image.fromarray(alpha))
    for mode in ("RGBA", "LA"):
        image = read_image(encoded(cut_out.convert(mode)))
        assert (image[:, :40] == 255).all()
        np.testing.assert_array_equal(image[:, 40:], np.asarray(picture.convert(mode[:-1]).convert("RGB"))[:, 40:])


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, -1), (8, 1)])
def test_exif_orientation_is_applied(picture: Image.Image, orientation: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    upright = Image.fromarray(np.rot90(np.asarray(picture), turn))
    assert difference(encoded(picture, "JPEG", quality=95, exif=exif), upright) < 12


def test_one_pixel_and_very_wide() -> None:
    assert read_image(encoded(Image.new("RGB", (1, 1), "red"))).tolist() == [[[255, 0, 0]]]
    assert read_image(encoded(Image.new("L", (20_000, 300), 7), "JPEG")).shape == (300, 20_000, 3)


def test_pictures_too_large_are_refused_before_decoding() -> None:
    for side in (20_000, int(MAX_PIXELS**0.5) + 10):
        with pytest.raises(HonneError, match="160 million pixels"):
            read_image(png(side, side, b""))


def test_broken_pictures(picture: Image.Image, tmp_path: Path) -> None:
    whole = encoded(picture, "JPEG")
    for data, said in (
        (b"", "empty"),
        (b"hello world, this is text", "not a picture"),
        (whole[: len(whole) // 2], "damaged or cut off"),
        (whole[:30], "damaged or cut off"),
        (encoded(picture)[:200], "damaged or cut off"),
    ):
        with pytest.raises(HonneError, match=said):
            read_image(data)
        file = tmp_path / "photo.jpg"
        file.write_bytes(data)
        with pytest.raises(HonneError, match=said) as error:
            read_image(file)
        assert "photo.jpg" in error.value.what
        assert error.value.hint
    for path in (tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(HonneError, match=path.name):
            read_image(path)


def test_a_broken_still_is_one_frame_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    media = open_media(tmp_path / "text.jpg")
    [frame] = media.frames()
    assert (media.kind, media.length, frame.index, frame.time, frame.image) == ("still", 1, 0, 0.0, None)
    assert "not a picture" in frame.error


def test_inputs(picture: Image.Image, tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.mp4", ".hidden/x.jpg", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(picture))
    odd = tmp_path / "odd.dat"
    odd.write_bytes(encoded(picture))
    found = list_inputs([tmp_path, odd, "camera:0", tmp_path / "a.mp4"])
    assert found == [str(tmp_path / name) for name in ("a.mp4", "b/1.png", "b/2.JPG", "odd.dat")] + ["camera:0"]
    assert open_media(odd).kind == "still"
    with pytest.raises(HonneError, match=r"nothing\.jpg: no such file"):
        list_inputs([tmp_path / "nothing.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(HonneError, match="no pictures or videos"):
        list_inputs([tmp_path / "empty"])
    with pytest.raises(WrongCall, match="camera:front"):
        list_inputs(["camera:front"])


def write_video(path: Path, stamps: list[int], *, turn: int = 0, container: dict[str, str] | None = None) -> Path:
    """A clip at 25 stamps per second; frame i has red = 10 i in its upper left quarter."""
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        if turn:
            stream.set_display_rotation(turn)
        noise = np.random.default_rng(0)
        for number, stamp in enumerate(stamps):
            image = noise.integers(60, 90, (96, 160, 3)).astype(np.uint8)
            image[:48, :80] = (10 * number % 250, 0, 0)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = stamp
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def reds(frames: list[Any]) -> list[int]:
    return [int(frame.image[:40, :70, 0].mean()) for frame in frames]


def test_video_frames_in_media_time(tmp_path: Path) -> None:
    media = open_media(write_video(tmp_path / "clip.mp4", list(range(20))))
    assert (media.kind, media.length, media.rate) == ("video", 20, 25)
    frames = list(media.frames())
    assert [frame.index for frame in frames] == list(range(20))
    assert [frame.time for frame in frames] == pytest.approx(np.arange(20) / 25)
    np.testing.assert_allclose(reds(frames), np.arange(20) * 10, atol=20)
    assert frames[0].image.shape == (96, 160, 3)
    again = list(media.frames(start_index=15))
    assert [frame.index for frame in again] == list(range(15, 20))
    np.testing.assert_array_equal(again[0].image, frames[15].image)


def test_variable_frame_rate_and_sub_sampling(tmp_path: Path) -> None:
    stamps = [0, 1, 2, 3, 25, 26, 50, 62, 63]
    path = write_video(tmp_path / "clip.mkv", stamps)
    frames = list(open_media(path).frames())
    assert [frame.time for frame in frames] == pytest.approx([stamp / 25 for stamp in stamps])
    thin = list(open_media(path, fps=2).frames())
    assert [frame.index for frame in thin] == [0, 4, 6, 8]
    assert [frame.index for frame in open_media(path, fps=2).frames(start_index=5)] == [6, 8]
    even = write_video(tmp_path / "even.mp4", list(range(25)))
    assert [frame.index for frame in open_media(even, fps=5).frames()] == [0, 5, 10, 15, 20]
    assert len(list(open_media(even, fps=1000).frames())) == 25
    with pytest.raises(WrongCall, match="fps"):
        open_media(even, fps=0)


@pytest.mark.parametrize("turn", [90, -90, 180])
def test_rotation_is_applied(tmp_path: Path, turn: int) -> None:
    plain = next(open_media(write_video(tmp_path / "plain.mp4", [0, 1])).frames()).image
    turned = next(open_media(write_video(tmp_path / "turned.mp4", [0, 1], turn=turn)).frames()).image
    np.testing.assert_array_equal(turned, np.rot90(plain, turn // 90))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_video_cut_off_gives_its_good_frames_then_one_error(tmp_path: Path, suffix: str) -> None:
    start = {"movflags": "faststart"} if suffix == "mp4" else {}
    whole = write_video(tmp_path / f"clip.{suffix}", list(range(100)), container=start)
    assert [frame.error for frame in open_media(whole).frames()] == [None] * 100
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    *good, last = open_media(cut).frames()
    assert 0 < len(good) < 95
    assert all(frame.error is None for frame in good)
    assert last.image is None
    assert (last.index, last.time > good[-1].time) == (len(good), True)
    assert f"cut.{suffix}: the video is cut off" in last.error
    assert [frame.error for frame in open_media(cut, fps=1).frames(start_index=90)] == [last.error]


def test_damage_in_the_middle_loses_only_itself(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "clip.mp4", list(range(100)), container={"movflags": "faststart"})
    data = bytearray(whole.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    whole.write_bytes(data)
    *good, last = open_media(whole).frames()
    assert len(good) > 80
    assert good[-1].time > 3.8
    assert all(frame.image is not None for frame in good)
    assert last.image is not None or "damaged" in last.error


def test_what_is_no_video_is_said_at_once(tmp_path: Path) -> None:
    index_at_end = write_video(tmp_path / "clip.mp4", list(range(30)))
    index_at_end.write_bytes(index_at_end.read_bytes()[:-900])
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "zero.mp4").touch()
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        file.mux(stream.encode(sound))
        file.mux(stream.encode(None))
    for name, said in (
        ("clip.mp4", "no picture or video"),
        ("text.mp4", "no picture or video"),
        ("zero.mp4", "empty"),
        ("sound.mp4", "no video stream"),
        ("missing.mp4", "no such file"),
        ("", "folder"),
    ):
        with pytest.raises(HonneError, match=said) as error:
            open_media(tmp_path / name)
        assert error.value.hint


def test_a_camera_that_is_not_there() -> None:
    with pytest.raises(HonneError, match="camera:97: there is no such camera"):
        open_media("camera:97")
