"""Videos in and out: rates, sound, depth, levels, memory of a few frames."""

import functools
import http.server
import os
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from command_fixtures import TINIEST, random_params
from PIL import Image

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import encode
from hkdnet_jax.inference import video
from hkdnet_jax.inference.video import fuse_video
from hkdnet_jax.inference.video_arguments import source
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.student import Student

H, W = 32, 48


@pytest.fixture(scope="module")
def model():
    network = Student(TINIEST, 2)
    return Model(network, random_params(network), 2)


def level(number):
    """A gray frame whose level tells its number."""
    return np.full((H, W), 40 + 4 * number, np.uint8)


def write_video(path, frames, rate=25, codec="libx264", form="yuv420p", sound=False):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = H, W, form
        track = container.add_stream("aac", rate=16000) if sound else None
        for frame in frames:
            kind = "gray" if frame.ndim == 2 else "rgb24"
            made = av.VideoFrame.from_ndarray(frame, format=kind)
            for packet in stream.encode(made.reformat(format=form)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
        if track is not None:
            wave = (9000 * np.sin(np.arange(16000) / 20)).astype(np.int16)[None]
            fifo = av.AudioFifo()
            tone = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            tone.rate, tone.pts = 16000, 0
            fifo.write(tone)
            while (part := fifo.read(1024, partial=True)) is not None:
                for packet in track.encode(part):
                    container.mux(packet)
            for packet in track.encode():
                container.mux(packet)
    return path


def streams(path):
    with av.open(str(path)) as container:
        kinds = {stream.type: stream.codec.name for stream in container.streams}
        frames = [x.to_ndarray(format="rgb24") for x in container.decode(video=0)]
        return kinds, container.streams.video[0].average_rate, frames


@pytest.mark.parametrize(
    ("codec", "suffix", "name"),
    [("h264", ".mp4", "h264"), ("h265", ".mkv", "hevc"), ("mjpeg", ".avi", "mjpeg")],
)
def test_a_video_becomes_a_video_with_sound(model, tmp_path, codec, suffix, name):
    scene = [np.dstack([level(n), level(n + 5), level(n)]) for n in range(9)]
    vis = write_video(tmp_path / "vis.mp4", scene, rate=10, sound=True)
    ir = write_video(tmp_path / "ir.avi", scene, 10, "mjpeg", "yuvj420p")
    out = tmp_path / "new" / f"out{suffix}"
    fused = fuse_video(model, ir, vis, out, codec=codec)
    assert (fused.frames, fused.size, fused.rate) == (9, (2 * H, 2 * W), 10)
    kinds, rate, frames = streams(out)
    assert kinds == {"video": name, "audio": "aac"} and rate == 10
    assert len(frames) == 9 and frames[0].shape == (2 * H, 2 * W, 3)
    assert os.listdir(out.parent) == [out.name]
    # Green stays greener than red, and each frame is that of its pair.
    _, _, seen = streams(vis)
    _, _, heat = streams(ir)
    for number in (0, 4, 8):
        expected = model(heat[number], seen[number])
        difference = frames[number].astype(int) - expected
        assert np.abs(difference).mean() < 6, number


def steps(rates, counts, offset):
    """Which infrared frame each visible frame gets."""

    class Made:
        def __init__(self, rate, count):
            self.rate, self.count = Fraction(rate), count

        def frames(self):
            return (video.Frame(n / float(self.rate), n) for n in range(self.count))

    ir, vis = (Made(*x) for x in zip(rates, counts, strict=True))
    pairs = video._in_step(ir.frames(), vis.frames(), ir, offset)
    return [(a.picture, b.picture) for a, b in pairs]


def test_the_nearest_frame_is_taken():
    assert steps((25, 25), (3, 3), 0) == [(0, 0), (1, 1), (2, 2)]
    assert steps((10, 30), (3, 5), 0) == [(0, 0), (0, 1), (1, 2), (1, 3), (1, 4)]
    assert steps((30, 10), (9, 3), 0) == [(0, 0), (3, 1), (6, 2)]
    # One frame of the visible video passes before the infrared one begins.
    assert steps((10, 10), (3, 5), 0.1) == [(0, 1), (1, 2), (2, 3)]
    assert steps((10, 10), (5, 3), -0.2) == [(2, 0), (3, 1), (4, 2)]
    assert steps((10, 10), (0, 3), 0) == []


def test_deep_frames_get_one_range_and_keep_their_depth(model, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):
        raw = rng.integers(7000, 7000 + 500 * (number + 1), (H, W)).astype(np.uint16)
        for kind, image in (("ir", raw), ("vis", level(number))):
            path = tmp_path / kind / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode(image, path))
    fused = fuse_video(
        model, tmp_path / "ir", tmp_path / "vis", tmp_path / "out", depth="16"
    )
    assert fused.frames == 4 and fused.rate == 25
    assert fused.notes[0].startswith("Levels of ir: 700")
    frames = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in frames] == [f"frame_{n:06}.png" for n in range(4)]
    assert np.asarray(Image.open(frames[0])).max() > 255


def test_a_still_scene_does_not_flicker(model, tmp_path):
    rng = np.random.default_rng(1)
    still = rng.integers(60, 190, (H, W)).astype(float)
    for kind in ("ir", "vis"):
        (tmp_path / kind).mkdir()
        for number in range(6):
            noisy = still + rng.normal(scale=2, size=(H, W))
            path = tmp_path / kind / f"{number}.png"
            path.write_bytes(encode(noisy.clip(0, 255).astype(np.uint8), path))
    fuse_video(model, tmp_path / "ir", tmp_path / "vis", tmp_path / "out")
    frames = sorted((tmp_path / "out").iterdir())
    means = [np.asarray(Image.open(path)).mean() for path in frames]
    assert np.abs(np.diff(means)).max() < 0.5


def test_only_a_few_frames_are_in_memory(model, monkeypatch):
    """What is decoded ahead does not grow with the video."""
    decoded, consumed, most = 0, 0, 0

    def items():
        nonlocal decoded
        for number in range(200):
            decoded += 1
            yield number

    for number in video._ahead(items(), 2):
        assert number == consumed
        consumed += 1
        most = max(most, decoded - consumed)
    assert consumed == 200 and most <= 4


def test_an_error_on_the_way_is_raised(tmp_path):
    def items():
        yield 1
        raise UserError("broken.")

    with pytest.raises(UserError, match="broken"):
        list(video._ahead(items(), 2))


def test_an_address_is_a_source(model, tmp_path):
    frames = list(map(level, range(6)))
    write_video(tmp_path / "cam.avi", frames, 5, "mjpeg", "yuvj420p")
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/cam.avi"
        fused = fuse_video(model, address, tmp_path / "cam.avi", tmp_path / "out")
        server.shutdown()
    assert fused.frames == 6
    with pytest.raises(UserError, match="gives no frame: check that it is the index"):
        fuse_video(
            model, "http://127.0.0.1:9/x.avi", tmp_path / "cam.avi", tmp_path / "o"
        )


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_what_cannot_be_a_video(model, tmp_path):
    good = write_video(tmp_path / "good.mp4", [level(1)] * 2)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video at all")
    call = functools.partial(fuse_video, model)
    with pytest.raises(UserError, match=r"bad\.mp4 cannot be read as a video"):
        call(bad, good, tmp_path / "o.mp4")
    with pytest.raises(UserError, match="holds no pictures"):
        (tmp_path / "empty").mkdir()
        call(tmp_path / "empty", good, tmp_path / "o.mp4")
    with pytest.raises(UserError, match="give a folder for 16"):
        call(good, good, tmp_path / "o.mp4", depth="16")
    with pytest.raises(ValueError, match="codec must be one of"):
        call(good, good, tmp_path / "o.mp4", codec="vp9")
    small = tmp_path / "small" / "0.png"
    small.parent.mkdir()
    small.write_bytes(encode(level(0)[:20, :30], small))
    with pytest.raises(UserError, match=r"good\.mp4 is 48x32: give --match"):
        call(small.parent, good, tmp_path / "o.mp4")
    assert not list(tmp_path.glob("*o.mp4*")) and not list(tmp_path.glob(".*"))


def test_inputs_in_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert source("0") == "0" and source("rtsp://host/a") == "rtsp://host/a"
    assert source("a/b.png").name == "b.png"
    (tmp_path / "0").mkdir()
    assert source("0").name == "0" and not isinstance(source("0"), str)
