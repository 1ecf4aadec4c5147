"""The models that come with the package: their files, their names, what they give."""

import hashlib
import json
import shutil
import socket
from pathlib import Path

import jax
import numpy as np
import pytest

import hkdnet_jax
from data_pipelines import scenes, splits
from data_pipelines.pairs import find_pairs
from hkdnet_jax import evaluate, fuse, pretrained
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import read_gray
from hkdnet_jax.evaluation.held_out import held_out_pair
from hkdnet_jax.evaluation.pictures import degrade_picture, enlarge
from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.model_files import file_format
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import PRESETS, SCALES
from hkdnet_jax.models.teacher import Teacher

# Of the files.
SHA256 = {
    "lite_x2": "d40d16c9c0ef17ada7eccd7af886eaaee2e6b6f7f4da13f0962f7498964314f7",
    "lite_x3": "37746142b69dbf2de61aac3248064c18b76c565925a682ca8b636dff5c49ec37",
    "lite_x4": "6a8a9b7693fb2598c1ab440d6c4cca137a6e43891241e46ad35899876279697a",
    "lite_camera_x2": (
        "1edc29e03245dbc36e49ca544f963cd057468a6cb374821b7da9a24a5c21950f"
    ),
    "lite_camera_x4": (
        "1d69cc28ce847bfe6c45487938c997296a2beab365125ce1ccbb37860780a3ca"
    ),
    "lite_vivid_x2": "404fe68cc81f7c2f5ce66ae8a765309558d4dea795c2e34dbba921bb9cf8f479",
    "lite_vivid_x3": "753a50cdab060f220a34f2109c49cee7b9f28d5e3728d83ad812bfbb9e1a213f",
    "lite_vivid_x4": "c11b7f49e98895e25cdd2466e3d31c1dc62ef0a238ac04315f30871bd66aaa01",
    "teacher_vivid": "5ee9dcd75039cd73099e9639e094af9f08280ef5c70f632085e1f33cec126bcc",
    "teacher": "3f7c359697cec9b02054d48416b3259a2d1b5d337855635a00be9b857a82c7fc",
}
# Levels of the pictures of one made scene: every 9th row and 16th column of its pixels.
GOLDEN = {
    1: [[48, 10, 8, 12], [106, 51, 77, 21], [88, 82, 130, 90], [79, 83, 93, 89]],
    2: [[24, 11, 11, 12], [110, 48, 77, 20], [87, 79, 127, 91], [76, 82, 93, 88]],
    3: [[15, 11, 11, 13], [112, 49, 76, 23], [88, 81, 128, 89], [77, 81, 94, 89]],
    4: [[14, 10, 11, 13], [113, 49, 75, 23], [88, 83, 128, 89], [77, 81, 94, 88]],
}


@pytest.fixture(scope="module")
def pair():
    return scenes.render(7, 0, 36, 64)


def test_files_are_those_of_the_model_card():
    found = {
        file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in pretrained._HERE.glob("*/model.safetensors")
    }
    assert found == SHA256
    card = (pretrained._HERE / "README.md").read_text()
    assert all(digest in card for digest in SHA256.values())


@pytest.mark.parametrize("scale", SCALES)
def test_each_scale_has_a_small_model(scale, pair):
    model = hkdnet_jax.load(scale)
    assert model.scale == scale
    file = pretrained.locate(None, scale) / "model.safetensors"
    assert file.stat().st_size < 5 * 10**6
    if scale == 1:
        assert isinstance(model.network, Teacher)
    else:
        assert model.network.config == PRESETS["lite"]
        count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
        assert 300_000 < count < 1_000_000
        # Of F_f^s: the first models had lost most channels (docs/training-log.md).
        ir, vis = (x[None, :, :, None] / np.float32(255) for x in pair)
        _, out = jax.jit(model.network.apply)({"params": model.params}, ir, vis)
        assert np.mean(np.std(out["decoded"], axis=(1, 2)) > 1e-3) > 0.9


def live_channels(pairs):
    """The shares of the teacher's channels that fire anywhere in pairs of one size."""
    model = hkdnet_jax.load(1)
    ir, vis = np.moveaxis(np.array(pairs), 1, 0)[..., None] / np.float32(255)
    _, out = jax.jit(model.network.apply)({"params": model.params}, ir, vis)
    encoders = [np.split(out[f"encoder_{side}"], 4, -1) for side in ("ir", "vis")]
    decoder = [(out[f"decoder{i}"],) for i in (1, 2, 3)]
    layers = [*zip(*encoders, strict=True), *decoder]
    return [
        np.mean(np.any([(x > 0).any((0, 1, 2)) for x in layer], axis=0))
        for layer in layers
    ]


def test_the_teachers_channels_fire():
    """Of the first teacher's, half did not (docs/training-log.md)."""
    shares = live_channels([scenes.render(7, i, 96, 144) for i in range(8)])
    assert len(shares) == 7 and min(shares) >= 0.9


def test_the_teachers_channels_fire_on_real_pairs(real_data):
    roots = [real_data / name for name in ("roadscene", "llvip", "m3svd")]
    split = Path(__file__).parents[2] / "configs/splits/val.txt"
    _, held_out = splits.split_pairs(find_pairs(roots), "", str(split), 0.0)
    crops = [
        [read_gray(file)[:144, :144] for file in (pair.ir, pair.vis)]
        for pair in held_out
    ]
    assert len(crops) == 33 and min(live_channels(crops)) >= 0.95


@pytest.mark.parametrize("scale", SCALES)
def test_pictures_stay_as_they_are(pair, scale):
    picture = fuse_pair(hkdnet_jax.load(scale), *pair)
    assert picture.shape == (36 * scale, 64 * scale)
    levels = picture[:: 9 * scale, :: 16 * scale].astype(int)
    # Another machine's convolutions may round a level the other way.
    assert np.abs(levels - np.array(GOLDEN[scale])).max() <= 1


def test_a_user_of_float64_gets_the_same(pair):
    expected = fuse_pair(hkdnet_jax.load(2), *pair)
    with jax.enable_x64(True):
        picture = fuse_pair(hkdnet_jax.load(2), *pair)
    assert np.abs(picture - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("scale", SCALES[1:])
def test_better_than_bicubic_on_a_scene(scale):
    ir, vis = scenes.render(7, 1, 96, 144)
    label = fuse_pair(hkdnet_jax.load(1), ir, vis).astype(float)
    low = [np.asarray(degrade_picture(image, scale)) for image in (ir, vis)]
    ours = fuse_pair(hkdnet_jax.load(scale), *low)
    small = fuse_pair(hkdnet_jax.load(1), *low)
    errors = [
        np.mean((x.astype(float) - label) ** 2) for x in (ours, enlarge(small, scale))
    ]
    assert errors[0] < 0.9 * errors[1]


def test_students_of_cameras_are_better_on_cameras():
    ir, vis = scenes.render(7, 1, 96, 144)
    label = fuse_pair(hkdnet_jax.load(1), ir, vis).astype(float)
    taken = held_out_pair(ir, vis, 2, 3)
    errors = [
        np.mean((fuse_pair(model, *taken) - label) ** 2)
        for model in (hkdnet_jax.load("lite_camera", scale=2), hkdnet_jax.load(2))
    ]
    assert errors[0] < 0.8 * errors[1]


def test_denoising_lies_between_two_students():
    clean, camera = (hkdnet_jax.load(name, scale=2) for name in ("lite", "lite_camera"))
    for strength in (0, 0.25, 1):
        model = hkdnet_jax.load(2, denoise=strength)
        assert model.network == clean.network == camera.network
        for got, a, b in zip(
            *(jax.tree.leaves(x.params) for x in (model, clean, camera)), strict=True
        ):
            expected = (1 - strength) * np.asarray(a) + strength * np.asarray(b)
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"scale": 2, "denoise": 1.5}, "strength of denoising is 1.5: give 0 to 1"),
        ({"scale": 2, "denoise": float("nan")}, "strength of denoising is nan"),
        ({"model": "teacher", "denoise": 1}, "is for the package's lite in the style"),
        ({"scale": 2, "style": "vivid", "denoise": 1}, "leave out the model and the"),
        ({"scale": 1, "denoise": 1}, "lite_camera cannot be used at --scale 1"),
    ],
)
def test_denoising_that_cannot_be(arguments, says):
    with pytest.raises(UserError, match=says):
        hkdnet_jax.load(**arguments)


def test_names_and_scales():
    here = pretrained._HERE
    assert pretrained.locate(None, 1) == pretrained.locate("teacher", None)
    assert pretrained.locate("teacher", 1) == here / "teacher"
    assert (
        pretrained.locate("lite", 3) == pretrained.locate(None, 3) == here / "lite_x3"
    )
    assert str(pretrained.locate("./lite", 3)) == "lite"
    assert str(pretrained.locate("runs/x2", None)) == "runs/x2"


def test_a_style_chooses_among_the_names(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "_HERE", tmp_path)
    for name in ("teacher", "lite_x3", "lite_camera_x3"):
        (tmp_path / name).mkdir()
        (tmp_path / name.replace("camera", "vivid")).mkdir(exist_ok=True)
    (tmp_path / "teacher_vivid").mkdir()
    for arguments, name in (
        ((None, 3), "lite_x3"),
        ((None, 3, "vivid"), "lite_vivid_x3"),
        (("lite", 3, "vivid"), "lite_vivid_x3"),
        (("lite_vivid", 3), "lite_vivid_x3"),
        ((None, 1, "vivid"), "teacher_vivid"),
        (("teacher", None, "vivid"), "teacher_vivid"),
        (("teacher_vivid", None), "teacher_vivid"),
        (("lite_camera", 3), "lite_camera_x3"),
    ):
        assert pretrained.locate(*arguments) == tmp_path / name
    for family, name in (("balanced", "lite_x3"), ("camera", "lite_camera_x3")):
        assert pretrained.students(family) == {3: tmp_path / name}
    assert pretrained.students("loud") == {}
    held = "lite", "teacher", "lite_vivid", "teacher_vivid", "lite_camera"
    assert pretrained.names() == held
    with pytest.raises(UserError, match="lite_camera cannot be used at --scale 2: "):
        pretrained.locate("lite_camera", 2)
    with pytest.raises(UserError, match="lite_camera is another one"):
        pretrained.locate("lite_camera", 3, "vivid")


def test_further_students_work_like_the_others(monkeypatch, tmp_path, pair, capsys):
    """Whoever ships one copies its folder, and adds its rows to the model card."""
    for name, source in (
        ("teacher", "teacher"),
        ("teacher_vivid", "teacher"),
        ("lite_x2", "lite_x2"),
        ("lite_vivid_x2", "lite_x2"),
    ):
        config, params = file_format.load_model(pretrained._HERE / source)
        if name == "teacher_vivid":
            config["context"] = 12.0
        if name == "lite_vivid_x2":
            config["model"]["skip_context"] = 6.0
        file_format.save_model(tmp_path / name, config, params)
    rows = "| tno | x2 | 1 dB | **40.00 dB, 0.9000** |\n"
    rows += "| tno, vivid | x2 | 1 dB | **30.00 dB, 0.8000** |\n"
    (tmp_path / "README.md").write_text(rows)
    monkeypatch.setattr(pretrained, "_HERE", tmp_path)
    for name, psnr in (("lite_x2", 40.0), ("lite_vivid_x2", 30.0)):
        assert pretrained.card(tmp_path / name)["tno"]["psnr"] == psnr
    scenes.write_pairs(tmp_path, 7, 0, 1, 36, 64)
    files = [f"--{m}={tmp_path / m / 'scene_0000.png'}" for m in ("ir", "vis")]
    for scale in (1, 2):
        flags = [f"--scale={scale}", "--style=vivid", f"--out={tmp_path / 'o.png'}"]
        assert fuse.main([*files, *flags]) == 0
        picture = read_gray(tmp_path / "o.png").astype(int)
        vivid = hkdnet_jax.load(scale, style="vivid")
        assert np.abs(picture - fuse_pair(vivid, *pair)).max() <= 1
        assert np.abs(picture - fuse_pair(hkdnet_jax.load(scale), *pair)).max() > 20
    assert capsys.readouterr().err.count("error") == 0


def test_a_style_that_is_not_shipped_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "_HERE", tmp_path)
    with pytest.raises(UserError, match="no model lite_vivid_x2 yet: train one with"):
        hkdnet_jax.load(2, style="vivid")


def test_each_folder_has_a_name():
    found = {
        pretrained.locate(name, scale).name
        for name in pretrained.names()
        for scale in ([1] if "teacher" in name else pretrained.students(name[5:]))
    }
    assert found | {f"lite_x{scale}" for scale in (2, 3, 4)} == SHA256.keys()


def test_the_teacher_for_a_model_is_of_its_style():
    for style, context in (("balanced", 0), ("vivid", 12)):
        teacher, student = (hkdnet_jax.load(scale, style=style) for scale in (1, 2))
        assert pretrained.teacher_for(teacher) is teacher
        assert teacher.network.context == context
        for model in (student, student.ensembled()):
            assert pretrained.teacher_for(model).network == teacher.network


def test_a_style_is_not_for_other_models():
    with pytest.raises(UserError, match="runs/x2 is another one: leave the style out"):
        hkdnet_jax.load("runs/x2", style="vivid")
    with pytest.raises(UserError, match="style is 'loud'; give one of balanced, vivid"):
        hkdnet_jax.load(2, style="loud")


@pytest.mark.parametrize(
    ("model", "scale", "says"),
    [
        (None, None, "Give --scale 2, 3 or 4"),
        ("lite", None, "lite cannot be used without --scale: give --scale 2, 3 or 4"),
        ("lite", 1, "lite cannot be used at --scale 1"),
    ],
)
def test_unclear_names(model, scale, says):
    with pytest.raises(UserError, match=says):
        pretrained.locate(model, scale)


@pytest.mark.parametrize("scale", [0, 5])
def test_no_such_scale(scale):
    with pytest.raises(UserError, match=f"scale is {scale}"):
        hkdnet_jax.load(scale)


@pytest.mark.parametrize("scale", ["2", True])
def test_a_scale_is_a_number(scale):
    says = r"scale must be a number.*: write load\(2\)"
    with pytest.raises(TypeError, match=says):
        hkdnet_jax.load(scale=scale)
    if not isinstance(scale, str):  # the name of a folder
        with pytest.raises(TypeError, match=says):
            hkdnet_jax.load(scale)
    assert hkdnet_jax.load(np.int64(1)).scale == hkdnet_jax.load(1.0).scale == 1


def test_load_takes_what_the_flags_take():
    assert hkdnet_jax.load().scale == 2
    assert hkdnet_jax.load("teacher").scale == 1
    assert hkdnet_jax.load("lite", scale=3).scale == 3
    directory = pretrained.locate(None, 1)
    assert hkdnet_jax.load(directory).scale == hkdnet_jax.load(str(directory)).scale
    with pytest.raises(UserError, match="has scale 1, not 2: leave scale out"):
        hkdnet_jax.load(directory, scale=2)
    with pytest.raises(TypeError, match="once"):
        hkdnet_jax.load(2, scale=2)


def test_the_card_has_figures_of_the_students():
    assert pretrained.card(pretrained.locate(None, 1)) == {}
    for scale in (2, 3, 4):
        sets = pretrained.card(pretrained.locate(None, scale))
        assert {"tno", "vifb", "hkdnet_demo"} <= sets.keys()
        text = (pretrained._HERE / "README.md").read_text()
        for name, row in sets.items():
            (line,) = [
                x for x in text.splitlines() if x.startswith(f"| {name} | x{scale} |")
            ]
            assert f"**{row['psnr']:.2f} dB, {row['ssim']:.4f}**" in line


def test_commands_use_them(pair, tmp_path, capsys):
    scenes.write_pairs(tmp_path, 7, 0, 1, 36, 64)
    folders = [f"--{kind}={tmp_path / kind}" for kind in ("ir", "vis")]
    assert fuse.main([*folders, f"--out={tmp_path / 'out'}", "--scale=2"]) == 0
    fused = read_gray(tmp_path / "out" / "scene_0000.png")
    expected = fuse_pair(hkdnet_jax.load(2), *pair).astype(int)
    assert np.abs(fused - expected).max() <= 1
    flags = [f"--out={tmp_path / 'less'}", "--scale=2", "--denoise=0.5"]
    assert fuse.main([*folders, *flags]) == 0
    less = read_gray(tmp_path / "less" / "scene_0000.png")
    expected = fuse_pair(hkdnet_jax.load(2, denoise=0.5), *pair).astype(int)
    assert np.abs(less - expected).max() <= 1 and np.any(less != fused)
    out = tmp_path / "scores.json"
    argv = [*folders, "--model=lite", "--scale=2", "--metrics=AG", f"--out={out}"]
    assert evaluate.main(argv) == 0
    assert "lite_x2" in capsys.readouterr().out
    assert json.loads(out.read_text())["mean"]["AG"] > 0


def test_no_connection_is_opened(pair, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a model of the package asked for the network")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    for scale in SCALES:
        hkdnet_jax.load(scale)
    fuse_pair(hkdnet_jax.load(2), *pair)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (0, "is damaged or not a safetensors file"),  # the header's length
        (20, "is damaged or not a safetensors file"),  # the header
        (-50_000, "does not match its checksum"),  # an array
        (-1, "does not match its checksum"),
    ],
)
def test_a_damaged_file_is_refused(place, says, tmp_path, capsys, monkeypatch):
    shutil.copytree(pretrained._HERE / "teacher", tmp_path / "teacher")
    file = tmp_path / "teacher" / file_format.WEIGHTS_FILE
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(pretrained, "_HERE", tmp_path)
    with pytest.raises(UserError, match=says):
        hkdnet_jax.load(1)
    scenes.write_pairs(tmp_path, 7, 0, 1, 36, 64)
    files = [f"--{m}={tmp_path / m / 'scene_0000.png'}" for m in ("ir", "vis")]
    assert fuse.main([*files, f"--out={tmp_path / 'o.png'}", "--scale=1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{file} is damaged" in line and says in line
    assert not (tmp_path / "o.png").exists()


def test_a_model_of_another_scale_is_refused(tmp_path, capsys, monkeypatch):
    shutil.copytree(pretrained._HERE / "teacher", tmp_path / "lite_x2")
    monkeypatch.setattr(pretrained, "_HERE", tmp_path)
    with pytest.raises(UserError, match=r"lite_x2 has scale 1, not 2"):
        hkdnet_jax.load(2)
    scenes.write_pairs(tmp_path, 7, 0, 1, 36, 64)
    files = [f"--{m}={tmp_path / m / 'scene_0000.png'}" for m in ("ir", "vis")]
    assert fuse.main([*files, f"--out={tmp_path / 'o.png'}", "--scale=2"]) == 1
    assert "--scale 2 does not fit" in capsys.readouterr().err


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_each_file_holds_the_network_that_it_describes(scale):
    """`pretrained.load` relies on it and does not look again."""
    checked = Model.load(pretrained.locate(None, scale))
    loaded = pretrained.load(scale)
    assert loaded.network == checked.network
    jax.tree.map(np.testing.assert_array_equal, loaded.params, checked.params)
