"""Every builder on made files in the layout of the real archive."""

import contextlib
import dataclasses
import functools
import http.server
import shutil
import tarfile
import tempfile
import threading
import unittest
import zipfile
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tensorflow_datasets as tfds
from made_archives import (
    MAKERS,
    check_records,
    image,
    make_flir,
    make_kaist,
    make_llvip,
    make_m3fd,
    make_msrs,
    make_pairs,
    make_roadscene,
    make_tno,
    make_vlirvdif,
    pair,
)
from PIL import Image

from data_pipelines.tfds_ir_vis import (
    BUILDERS,
    FolderConfig,
    StoredImage,
    base,
    layouts,
)
from hkdnet_jax.common.errors import UserError


def build(name, manual, data_dir, **options):
    builder = BUILDERS[name](data_dir=str(data_dir), **options)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=manual, try_download_gcs=False
        )
    )
    return builder


# --- the test case that tfds has for builders ---------------------------------------


class _Builder:
    """On the made archive, as a folder that was filled by hand."""

    NAME = ""
    SKIP_CHECKSUMS = True  # the archives' checksums could not be taken here

    @classmethod
    def setUpClass(cls):
        root = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, root)
        cls.DATASET_CLASS = BUILDERS[cls.NAME]
        cls.EXAMPLE_DIR = str(root)
        cls.made = MAKERS[cls.NAME](root)
        cls.SPLITS = {split: len(pairs) for split, pairs in cls.made.items()}
        super().setUpClass()

    def _assertAsDataset(self, builder):
        # array_record is read by as_data_source, which the test case does not know.
        check_records(builder, self.made)
        type(self).checked = True


@pytest.mark.parametrize("name", BUILDERS)
def test_the_case_that_tfds_has_for_builders(name):
    # tfds.testing is named only here: TensorFlow, which it imports, takes seconds and
    # hundreds of megabytes, and every process of the suite collects all tests.
    bases = (_Builder, tfds.testing.DatasetBuilderTestCase)
    case = type(f"Test_{name}", bases, {"NAME": name, "checked": False})
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert result.wasSuccessful(), [*result.errors, *result.failures]
    assert result.testsRun >= 5 and case.checked


def test_the_counts_of_tno_are_those_of_the_archive(tmp_path):
    counts = {split: len(pairs) for split, pairs in make_tno(tmp_path).items()}
    assert counts == {"test": 55, "sequences": 180}


# --- what is left out ---------------------------------------------------------------


def test_unusable_pairs_are_left_out_with_a_sentence_each(tmp_path):
    root = tmp_path / "own"
    made = make_pairs(root)
    pair(root / "ir" / "c_size.png", root / "vis" / "c_size.png")
    image(root / "vis" / "c_size.png", (9, 6))
    pair(root / "ir" / "d_broken.png", root / "vis" / "d_broken.png")
    content = (root / "ir" / "d_broken.png").read_bytes()
    (root / "ir" / "d_broken.png").write_bytes(content[: len(content) // 2])
    image(root / "ir" / "e_alone.png")
    builder = build("pairs", root, tmp_path / "out")
    check_records(builder, made)
    sentences = builder.info.metadata["left_out"]
    assert len(sentences) == 3
    for stem in ("c_size", "d_broken", "e_alone"):
        assert sum(str(root / "ir" / stem) in each for each in sentences) == 1
    assert builder.info.metadata["known_flaws"] == []
    # The sentences lie with the records: a later reader gets them too.
    again = BUILDERS["pairs"](data_dir=str(tmp_path / "out"))
    assert again.info.metadata["left_out"] == sentences


def test_known_flaws_of_an_archive_are_told_apart(tmp_path):
    made = make_tno(tmp_path / "tno")
    ir, _ = made["test"].pop("Triclobs_Marne_15")
    image(ir, (8, 16))
    builder = build("tno", tmp_path / "tno", tmp_path / "out")
    check_records(builder, made)
    assert builder.info.metadata["left_out"] == []
    (sentence,) = builder.info.metadata["known_flaws"]
    assert str(ir) in sentence


def test_no_usable_pair_is_an_error_and_leaves_no_records(tmp_path):
    ir, vis = tmp_path / "own" / "ir" / "a.png", tmp_path / "own" / "vis" / "a.png"
    pair(ir, vis)
    vis.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"'train' of pairs.*vis/a\.png"):
        build("pairs", tmp_path / "own", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.array_record*"))


# --- wrong layouts ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llvip", "infrared/train"),
        ("m3fd", "M3FD_Detection"),
        ("flir_adas", "align_train.txt"),
        ("kaist", "setXX/VXXX"),
        ("pairs", "ir, vis"),
    ],
)
def test_wrong_or_missing_files_name_the_folder_and_what_is_expected(
    tmp_path, name, expected
):
    with pytest.raises(UserError, match="fetched by hand") as missing:
        build(name, None, tmp_path / "out")
    assert BUILDERS[name].FACTS.manual in str(missing.value)
    image(tmp_path / "wrong" / "pictures" / "a.png")
    with pytest.raises(UserError) as wrong:
        build(name, tmp_path / "wrong", tmp_path / "out")
    assert str(tmp_path / "wrong") in str(wrong.value)
    assert expected in str(wrong.value)


def test_a_lost_folder_of_a_split_is_an_error(tmp_path):
    make_llvip(tmp_path / "hand")
    shutil.rmtree(tmp_path / "hand" / "LLVIP" / "visible" / "test")
    with pytest.raises(UserError, match="visible/test"):
        build("llvip", tmp_path / "hand", tmp_path / "out")


def test_folder_names_may_differ_in_case(tmp_path):
    made = make_m3fd(tmp_path / "hand")
    fusion = tmp_path / "hand" / "M3FD_Fusion"
    for old, new in (("Ir", "ir"), ("Vis", "vis")):
        (fusion / old).rename(fusion / new)
    made["test"] = {
        name: tuple(fusion / file.parent.name.lower() / file.name for file in files)
        for name, files in made["test"].items()
    }
    check_records(build("m3fd", tmp_path / "hand", tmp_path / "out"), made)


@pytest.mark.parametrize("kept", ["M3FD_Detection", "M3FD_Fusion"])
def test_one_of_the_two_m3fd_archives_is_enough(tmp_path, kept):
    made = make_m3fd(tmp_path / "hand")
    for folder in {"M3FD_Detection", "M3FD_Fusion"} - {kept}:
        shutil.rmtree(tmp_path / "hand" / folder)
    split = "train" if kept == "M3FD_Detection" else "test"
    builder = build("m3fd", tmp_path / "hand", tmp_path / "out")
    check_records(builder, {split: made[split]})


def test_frames_that_the_list_of_vlirvdif_chooses(tmp_path):
    make_vlirvdif(tmp_path / "raw")
    found = layouts.vlirvdif(tmp_path / "raw")
    assert [p.name for p in found.splits["test"]] == [
        *("Hall_0012", "Camouflage_0001", "Camouflage_0013")
    ]
    chosen = tmp_path / "raw" / "VLIRVDIF" / "test.txt"
    chosen.write_text("Hall_0012\nHall_0099\n", encoding="utf-8")
    (tmp_path / "raw" / "VLIRVDIF" / "Hall" / "IR" / "IR_13.png").unlink()
    found = layouts.vlirvdif(tmp_path / "raw")
    assert [p.name for p in found.splits["test"]] == ["Hall_0012"]
    lost, named = found.problems
    assert "VIS_13.png has no partner" in lost and "'Hall_0099'" in named
    chosen.unlink()
    assert len(layouts.vlirvdif(tmp_path / "raw").splits["test"]) == 5
    with pytest.raises(UserError, match="expected folders VIDEO with IR/ and VIS/"):
        layouts.vlirvdif(tmp_path / "nothing")


def test_flir_list_that_names_a_lost_image(tmp_path):
    made = make_flir(tmp_path / "hand")
    _, vis = made["train"].pop("FLIR_00013")
    vis.unlink()
    builder = build("flir_adas", tmp_path / "hand", tmp_path / "out")
    check_records(builder, made)
    (sentence,) = builder.info.metadata["left_out"]
    assert "FLIR_00013_PreviewData" in sentence and str(vis) in sentence


def test_tno_scene_with_two_thermal_images_is_not_guessed(tmp_path):
    made = make_tno(tmp_path / "hand")
    ir, _ = made["test"].pop("Athena_lake")
    image(ir.with_name("IR_other.bmp"))
    builder = build("tno", tmp_path / "hand", tmp_path / "out")
    check_records(builder, made)
    (sentence,) = builder.info.metadata["left_out"]
    assert sentence.startswith(f"{ir.parent} has 2 thermal and 1 visible")


def test_a_data_set_unpacked_twice_is_an_error(tmp_path):
    make_kaist(tmp_path / "hand" / "one")
    make_kaist(tmp_path / "hand" / "two")
    with pytest.raises(UserError, match="several pairs named set00_V000_I00000"):
        build("kaist", tmp_path / "hand", tmp_path / "out")


# --- records ------------------------------------------------------------------------


def test_two_folders_by_config(tmp_path):
    made = make_pairs(tmp_path / "own")
    (tmp_path / "own" / "ir").rename(tmp_path / "thermal")
    made["train"] = {
        name: (tmp_path / "thermal" / ir.name, vis)
        for name, (ir, vis) in made["train"].items()
    }
    config = FolderConfig(
        name="mine", ir=str(tmp_path / "thermal"), vis=str(tmp_path / "own" / "vis")
    )
    builder = build("pairs", None, tmp_path / "out", config=config)
    check_records(builder, made)
    assert builder.data_path.parts[-3:] == ("pairs", "mine", "1.0.0")
    # Readable by tfds without naming the builder or its configuration.
    check_records(tfds.builder_from_directory(str(builder.data_path)), made)


def test_sixteen_bits_are_scaled_for_display_and_kept_in_the_record(tmp_path):
    values = np.array([[0, 255, 256], [257, 32896, 65535]], np.uint16)
    file = tmp_path / "deep.png"
    Image.fromarray(values).save(file)
    decoded = StoredImage().decode_example_np(file.read_bytes())
    expected = np.round(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(decoded, np.repeat(expected[..., None], 3, axis=2))
    colours = np.stack([values, values[::-1], values[:, ::-1]], axis=2)
    decoded = StoredImage().decode_example_np(imagecodecs.png_encode(colours))
    np.testing.assert_array_equal(decoded, np.round(colours / 257).astype(np.uint8))


def test_palette_and_alpha_decode_to_three_channels(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (4, 5, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    decoded = StoredImage().decode_example_np((tmp_path / "rgba.png").read_bytes())
    np.testing.assert_array_equal(decoded, rgba[..., :3])
    palette = Image.fromarray(rgba[..., :3]).convert("P")
    palette.save(tmp_path / "p.png", transparency=bytes([0, 128]))
    decoded = StoredImage().decode_example_np((tmp_path / "p.png").read_bytes())
    np.testing.assert_array_equal(decoded, palette.convert("RGB"))


# --- downloads ----------------------------------------------------------------------


@contextlib.contextmanager
def served(folder: Path):
    """The address of a web server on this machine that serves `folder`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def zipped(folder: Path, archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as content:
        for file in sorted(folder.rglob("*")):
            content.write(file, file.relative_to(folder))


@pytest.mark.parametrize("name", ["tno", "roadscene", "msrs"])
def test_archives_are_downloaded_and_unpacked(tmp_path, monkeypatch, name):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = MAKERS[name](tmp_path / "real")
    zipped(tmp_path / "real", tmp_path / "web" / "archive.zip")
    with served(tmp_path / "web") as address:
        facts = dataclasses.replace(
            BUILDERS[name].FACTS, archive=f"{address}/archive.zip"
        )
        monkeypatch.setattr(BUILDERS[name], "FACTS", facts)
        builder = build(name, None, tmp_path / "out")
    check_records(builder, made)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("../../out.png", b"1", "leads out of the archive"),
        ("ir/a.png", bytes(10**6), "more than the 0 MB that an archive of its size"),
    ],
)
def test_an_evil_archive_is_refused_and_not_kept(
    tmp_path, monkeypatch, name, content, sentence
):
    monkeypatch.setattr(base, "_ROOM", 1000)
    archive = tmp_path / "downloads" / "a.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("vis/a.png", b"1")
        out.writestr(name, content)
    with pytest.raises(UserError, match=sentence):
        base._unpack(archive)
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["downloads"]


def test_a_tar_archive_is_unpacked_once(tmp_path):
    image(tmp_path / "real" / "ir" / "a.png")
    archive = tmp_path / "a"  # as tfds names downloads, by their addresses
    with tarfile.open(archive, "w:gz") as out:
        out.add(tmp_path / "real", "set")
    folder = base._unpack(archive)
    assert (folder / "set/ir/a.png").read_bytes() == (
        tmp_path / "real" / "ir" / "a.png"
    ).read_bytes()
    archive.write_bytes(b"no longer needed")
    assert base._unpack(archive) == folder


def test_a_broken_download_is_an_error_and_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = make_roadscene(tmp_path / "real")
    archive = tmp_path / "web" / "archive.zip"
    archive.parent.mkdir()
    archive.write_text("<html>Too many requests</html>", encoding="utf-8")
    with served(tmp_path / "web") as address:
        builder = BUILDERS["roadscene"]
        url = f"{address}/archive.zip"
        facts = dataclasses.replace(builder.FACTS, archive=url)
        monkeypatch.setattr(builder, "FACTS", facts)
        with pytest.raises(
            UserError, match=r"ZIP or tar archive.*--manual_dir"
        ) as error:
            build("roadscene", None, tmp_path / "out")
        assert url in str(error.value)
        with pytest.raises(UserError, match="404"):
            monkeypatch.setattr(
                builder, "FACTS", dataclasses.replace(facts, archive=url + "x")
            )
            build("roadscene", None, tmp_path / "out")
        monkeypatch.setattr(builder, "FACTS", facts)
        zipped(tmp_path / "real", archive)
        check_records(build("roadscene", None, tmp_path / "out"), made)


def test_files_by_hand_come_before_the_download(tmp_path, monkeypatch):
    facts = dataclasses.replace(BUILDERS["msrs"].FACTS, archive="http://127.0.0.1:9/x")
    monkeypatch.setattr(BUILDERS["msrs"], "FACTS", facts)
    made = make_msrs(tmp_path / "hand")
    check_records(build("msrs", tmp_path / "hand", tmp_path / "out"), made)
