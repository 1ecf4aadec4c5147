"""What the page does with files: pictures, sentences, archives."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command_fixtures import H, W, make_pair, write
from PIL import Image

from hkdnet_jax import pretrained
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.levels import BYTES
from hkdnet_jax.inference.inputs import Inputs
from hkdnet_jax.metrics import PAPER, score
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.web.fusing import Fused, Settings, bicubic
from hkdnet_jax.web.limits import Limits
from hkdnet_jax.web.models import Models
from hkdnet_jax.web.service import Service

DEFAULTS = {
    "scale": 2,
    "model": "x2",
    "color": "auto",
    "ir_range": "auto",
    "vis_range": "auto",
    "ir_palette": "none",
    "match": False,
    "align": "none",
}


def settings(**changed):
    return Settings(**(DEFAULTS | changed))


@pytest.fixture(scope="module")
def service(models, tmp_path_factory):
    limits = Limits(upload=2**20, pixels=4_000, pairs=3)
    chosen = Models([models[2], models[1]])
    made = Service(chosen, limits, tmp_path_factory.mktemp("work"))
    yield made
    made.close()


@pytest.fixture
def pair(tmp_path):
    ir, vis = make_pair()
    return write(tmp_path / "ir" / "a.png", ir), write(tmp_path / "vis" / "a.png", vis)


def quiet(text, share):
    assert text and 0 <= share <= 1


def fuse(service, ir, vis, scored=False, **changed):
    return service.fuse(ir, vis, settings(**changed), scored, quiet)


def decoded(png):
    from imagecodecs import png_decode

    return png_decode(png)


def fails(call, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    said = str(caught.value)
    assert said.endswith(".") and "\n" not in said and "/tmp" not in said
    assert "--" not in said
    return said


@pytest.mark.parametrize("colour", [False, True])
def test_both_downloads_are_what_the_model_makes(service, models, pair, colour):
    ir, vis = make_pair()
    if colour:
        vis = np.dstack([vis, vis // 2, 255 - vis])
        write(pair[1], vis)
    result = fuse(service, *pair)
    model = Model.load(models[2])
    for depth in ("8", "16"):
        expected = model(ir, vis, depth=depth)
        np.testing.assert_array_equal(decoded(result.fused.png(depth)), expected)
    assert not result.scores and not result.notes


def test_the_result_is_compared_with_bicubic_enlargement(service, pair):
    result = fuse(service, *pair)
    low = pretrained.load(1)(*make_pair(), depth="float")
    large = Image.fromarray(low).resize((2 * W, 2 * H), Image.Resampling.BICUBIC)
    expected = np.rint(np.clip(np.asarray(large), 0, 1) * 255)
    assert result.what == "bicubic enlargement" and result.before.dtype == np.uint8
    assert np.abs(result.before - expected).max() <= 1


def test_a_vivid_result_is_compared_with_a_vivid_one():
    ir, vis = make_pair()
    unit = (x[..., None] / np.float32(255) for x in (ir, vis))
    inputs = Inputs(*unit, ranges=(BYTES, BYTES), notes=())
    fused = Fused(np.zeros((2 * H, 2 * W), np.float32), inputs, [], 0.0)
    before = bicubic(pretrained.load(2, style="vivid"), fused, Path("a.png"))
    teacher = pretrained.load(1, style="vivid").for_reduced(2)
    large = Image.fromarray(teacher(ir, vis, depth="float")).resize(
        (2 * W, 2 * H), Image.Resampling.BICUBIC
    )
    expected = np.rint(np.clip(np.asarray(large), 0, 1) * 255)
    assert np.abs(before - expected).max() <= 1


def test_models_of_the_package_can_be_chosen():
    assert Models().names == ("auto", *pretrained.names())


def test_a_teachers_result_is_compared_with_the_visible_picture(service, pair):
    result = fuse(service, *pair, scored=True, model="x1", scale=1)
    assert list(result.scores) == ["this picture"]
    assert result.what == "the visible picture"
    np.testing.assert_array_equal(result.before, make_pair()[1])


def test_metrics_are_those_of_the_enlarged_inputs(service, pair):
    result = fuse(service, *pair, scored=True)
    assert list(result.scores) == ["this picture", "bicubic enlargement"]
    sources = [
        np.rint(
            np.clip(
                Image.fromarray(np.float32(x)).resize(
                    (2 * W, 2 * H), Image.Resampling.BICUBIC
                ),
                0,
                255,
            )
        ).astype(np.uint8)
        for x in make_pair()
    ]
    ours = score(*sources, decoded(result.fused.png("8")))
    for name in PAPER:
        found = result.scores["this picture"][name]
        np.testing.assert_allclose(found, ours[name], rtol=2e-3, err_msg=name)


def test_ranges_of_a_deep_tiff_are_taken_or_given(service, models, pair, tmp_path):
    ir, vis = make_pair()
    deep = ir.astype(np.uint16) * 20 + 7000
    path = tmp_path / "deep.tiff"
    tifffile.imwrite(path, deep)
    taken = fuse(service, path, pair[1])
    assert any("“Infrared range” sets others" in note for note in taken.notes)
    given = fuse(service, path, pair[1], ir_range="7000:12000")
    model = Model.load(models[2])
    expected = model(deep, vis, ir_range=(7000, 12000))
    np.testing.assert_array_equal(decoded(given.fused.png("8")), expected)
    preview = service.preview(path, "ir", settings(ir_range="7000:12100"))
    np.testing.assert_array_equal(preview, np.rint((deep - 7000) / 5100 * 255))


def test_previews_are_gray_for_infrared_and_coloured_for_visible(service, tmp_path):
    _, vis = make_pair()
    rgb = np.dstack([vis, vis // 2, 255 - vis])
    path = write(tmp_path / "a.png", rgb)
    np.testing.assert_array_equal(service.preview(path, "vis", settings()), rgb)
    assert service.preview(path, "ir", settings()).shape == (H, W)


def test_two_sizes_are_refused_or_matched(service, pair, tmp_path):
    small = write(tmp_path / "small.png", make_pair(1, H, 2 * W)[0][:, ::2][:9, :12])
    said = fails(fuse, service, small, pair[1])
    assert said == (
        "small.png is 12x9 but a.png is 23x17: give “Match sizes” if they show one "
        "view, or register them, and crop or resize them to the same size."
    )
    result = fuse(service, small, pair[1], model="x1", scale=1, match=True)
    assert result.before.shape == (H, W) and "resampled" in " ".join(result.notes)


def test_files_of_one_name_are_told_apart(service, pair):
    tall = write(pair[0], make_pair(0, H + 1, W)[0])
    said = fails(fuse, service, tall, pair[1])
    assert said.startswith("infrared a.png is 23x18 but visible a.png is 23x17")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"ir_range": "9:3"}, "“Infrared range”: '9:3' is not a range"),
        ({"model": "x2", "scale": 3}, "x2 has scale 2, not 3: choose “Scale” 2"),
        ({"model": "lite", "scale": 1}, "lite cannot be used at “Scale” 1"),
        ({"model": "/etc", "scale": 2}, "'/etc' is no model of this page"),
        ({"align": "affine"}, "cannot be aligned"),
    ],
)
def test_settings_that_cannot_be_used(service, pair, changed, says):
    assert says in fails(fuse, service, *pair, **changed)


def test_files_that_cannot_be_used(service, pair, tmp_path):
    broken = tmp_path / "broken <b>.png"
    broken.write_bytes(pair[0].read_bytes()[:60])
    for call in (
        lambda: fuse(service, broken, pair[1]),
        lambda: service.preview(broken, "ir", settings()),
    ):
        assert fails(call).startswith("broken <b>.png cannot be read as an image")
    wide = write(tmp_path / "wide.png", np.zeros((50, 90), np.uint8))
    said = "wide.png is 90x50 pixels, more than the 0.004 million"
    assert fails(service.preview, wide, "ir", settings()).startswith(said)
    heavy = tmp_path / "heavy.png"
    heavy.write_bytes(bytes(2**20 + 1))
    assert "more than the 1 MB" in fails(service.preview, heavy, "ir", settings())
    tiny = write(tmp_path / "tiny.png", np.zeros((7, 9), np.uint8))
    assert "too small to fuse" in fails(fuse, service, tiny, tiny)


def test_an_unforeseen_error_is_logged_alone(service, pair, monkeypatch, caplog):
    def fail(name, scale):
        raise RuntimeError("secret /etc/path")

    monkeypatch.setattr(service.models, "get", fail)
    assert "secret" not in fails(fuse, service, *pair)
    assert "secret /etc/path" in caplog.text


def archive(tmp_path, files):
    path = tmp_path / "pairs.zip"
    with zipfile.ZipFile(path, "w") as out:
        for name, file in files.items():
            out.write(file, name)
    return path


def test_an_archive_of_pairs(service, models, pair, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    files = {
        "set/ir/a.png": pair[0],
        "set/vis/a.png": pair[1],
        "set/ir/b.png": broken,
        "set/vis/b.png": pair[1],
        "set/ir/c.png": pair[0],
        "set/ir/d.png": pair[0],
        "set/vis/d.png": pair[1],
    }
    shown = []

    def told(text, share):
        shown.append((text, share))

    done = service.batch(archive(tmp_path, files), settings(), "16", told)
    expected = Model.load(models[2])(*make_pair(), depth="16")
    assert list(done.files) == ["a.png", "d.png"]
    np.testing.assert_array_equal(decoded(done.files["a.png"]), expected)
    unread, missing = done.problems
    assert missing.startswith("pairs.zip/set/ir/c.png has no partner 'c.*' in ")
    assert unread.startswith("pairs.zip/set/ir/b.png cannot be read as an image")
    assert shown[0] == ("unpacking", 0)
    shares = {text.partition(":")[0]: share for text, share in shown[1:]}
    assert shares == {"pair 1 of 2, a": 0, "pair 2 of 2, d": 1 / 2}


def test_a_note_on_many_files_of_an_archive_is_said_once(service, pair, tmp_path):
    wide = write(tmp_path / "wide.png", np.zeros((50, 90), np.uint8))
    clear = write(tmp_path / "clear.png", np.dstack([make_pair()[1]] * 4))
    files = {f"ir/{n}.png": pair[0] for n in "abc"}
    files |= {"vis/a.png": clear, "vis/b.png": clear, "vis/c.png": wide}
    done = service.batch(archive(tmp_path, files), settings(), "8", quiet)
    assert list(done.files) == ["a.png", "b.png"]
    (note,) = done.notes
    assert note.startswith("pairs.zip/vis/a.png: Alpha and other channels")
    (problem,) = done.problems
    assert problem.startswith("pairs.zip/vis/c.png is 90x50 pixels, more than")


def test_archives_that_cannot_be_used(service, pair, tmp_path):
    def fuse_archive(files):
        return service.batch(archive(tmp_path, files), settings(), "8", quiet)

    said = fails(fuse_archive, {"ir/a.png": pair[0], "../a.png": pair[1]})
    assert said.startswith("pairs.zip holds '../a.png', which leads out")
    many = {f"{side}/{n}.png": pair[0] for side in ("ir", "vis") for n in range(4)}
    assert "holds 4 pairs, more than the 3" in fails(fuse_archive, many)
    assert "one folder" in fails(fuse_archive, {"a.png": pair[0]})
    assert "holds no pictures" in fails(fuse_archive, {"readme.txt": pair[0]})


def test_two_models_of_one_name_are_refused(models, tmp_path):
    (tmp_path / "lite").symlink_to(models[2])
    with pytest.raises(UserError, match="rename the folder"):
        Models([models[2], models[2]])
