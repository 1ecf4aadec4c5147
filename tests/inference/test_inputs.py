"""Pairs of files as a network takes them: levels, ranges of a folder, notes, pages."""

import numpy as np
import pytest
import tifffile
from command_fixtures import H, W, make_pair, write

from hkdnet_jax.common import levels, palettes
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.levels import AUTO, FULL, Pooled, Range
from hkdnet_jax.common.pair_files import Pair
from hkdnet_jax.inference import inputs, pages
from hkdnet_jax.inference.inputs import Note, read_inputs, take_ranges
from hkdnet_jax.inference.jobs import Collected, Job
from hkdnet_jax.inference.options import Options

IR, VIS = make_pair()
DEGREES = (IR / 10 - 5).astype(np.float32)


def pair_of(tmp_path, ir, vis, name="a"):
    paths = []
    for side, image in (("ir", ir), ("vis", vis)):
        path = tmp_path / side / f"{name}.tif"
        if image.dtype.kind == "f":
            path.parent.mkdir(exist_ok=True)
            tifffile.imwrite(path, image)
        else:
            write(path, image)
        paths.append(path)
    return Pair(name, *paths)


def jobs_of(tmp_path, irs, viss):
    pairs = enumerate(zip(irs, viss, strict=True))
    return [
        Job(pair_of(tmp_path, *images, name=f"{n:03}"), tmp_path / "out" / f"{n}.png")
        for n, images in pairs
    ]


def test_8_bits_are_kept(tmp_path):
    got = read_inputs(pair_of(tmp_path, IR, VIS), Options())
    for unit, image in ((got.ir, IR), (got.vis, VIS)):
        expected = (image.astype(np.float64) / 255).astype(np.float32)
        np.testing.assert_array_equal(unit, expected[..., None])
    assert (got.ranges, got.notes) == ((levels.BYTES, levels.BYTES), ())


def test_each_side_has_its_own_range(tmp_path):
    deep = VIS.astype(np.uint16) * 16
    pair = pair_of(tmp_path, DEGREES, deep)
    got = read_inputs(pair, Options(ir_range=Range(0, 10), vis_range=FULL))
    assert got.ranges == ((0, 10), (0, 65535))
    expected = np.clip(DEGREES.astype(np.float64) / 10, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(got.ir[..., 0], expected)
    np.testing.assert_allclose(got.vis[..., 0], deep / 65535, rtol=1e-6)
    automatic = read_inputs(pair, Options()).ranges
    assert automatic[0] == levels.robust_range([DEGREES])


def test_minmax_is_each_files_own_range(tmp_path):
    pair = pair_of(tmp_path, DEGREES, VIS)
    got = read_inputs(pair, Options(normalize="minmax"))
    assert got.ranges == tuple((x.min(), x.max()) for x in (DEGREES, VIS))
    assert got.ir.min() == got.vis.min() == 0 and got.ir.max() == got.vis.max() == 1


def test_one_range_for_the_folder(tmp_path):
    shifted = [IR.astype(np.uint16) * 3 + start for start in (7000, 7300, 7600)]
    jobs = jobs_of(tmp_path, shifted, [VIS] * 3)
    options, said = take_ranges([job.pair for job in jobs], Options())
    found = levels.robust_range(shifted)
    assert options == Options(ir_range=Pooled(*found))
    assert isinstance(options.ir_range, Pooled)
    (sentence,) = said
    assert sentence.startswith(f"Levels of the infrared files: {found.low:g} to ")
    assert "--ir-range" in sentence
    assert read_inputs(jobs[0].pair, options).ranges == (found, levels.BYTES)


def test_a_range_for_each_file(tmp_path):
    shifted = [IR.astype(np.uint16) * 3 + start for start in (7000, 7300)]
    jobs = jobs_of(tmp_path, shifted, [VIS] * 2)
    pairs = [job.pair for job in jobs]
    options, said = take_ranges(pairs, Options(range_per="image"))
    assert options.ir_range == AUTO
    assert said == [
        "Levels of the infrared files: each file by itself (0.1 to 99.9 %); --ir-range "
        "sets others."
    ]
    ranges = [read_inputs(job.pair, options).ranges[0] for job in jobs]
    assert ranges == [levels.robust_range([x]) for x in shifted]


@pytest.mark.parametrize(
    "options", [Options(ir_range=FULL), Options(normalize="minmax"), Options()]
)
def test_nothing_is_taken_or_said_without_need(tmp_path, options):
    deep = IR.astype(np.uint16) if options != Options() else IR
    jobs = jobs_of(tmp_path, [deep], [VIS])
    assert take_ranges([job.pair for job in jobs], options) == (options, [])


def test_broken_files_have_no_part_in_the_range(tmp_path):
    jobs = jobs_of(tmp_path, [IR.astype(np.uint16)] * 3, [VIS] * 3)
    jobs[1].pair.ir.write_bytes(b"broken")
    options, (sentence,) = take_ranges([job.pair for job in jobs], Options())
    assert options.ir_range == levels.robust_range([IR, IR])
    assert "infrared" in sentence


def test_a_sample_of_a_large_folder_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "_FILES_LOOKED_AT", 3)
    jobs = jobs_of(tmp_path, [IR.astype(np.uint16) + n for n in range(9)], [VIS] * 9)
    options, _ = take_ranges([job.pair for job in jobs], Options())
    assert options.ir_range == levels.robust_range([IR + 0.0 + n for n in (0, 4, 8)])


def test_what_should_be_known_of_a_file(tmp_path):
    alpha = np.dstack([VIS, VIS, VIS, IR])
    colours = np.round(palettes.load("ironbow")[IR]).astype(np.uint8)
    holes = DEGREES.copy()
    holes[3, 4] = np.nan
    pair = pair_of(tmp_path, holes, alpha)
    assert read_inputs(pair, Options()).notes == (
        Note(pair.ir, "Pixels that are NaN become black."),
        Note(pair.vis, "Alpha and other channels beside the colour are ignored."),
    )
    pair = pair_of(tmp_path, colours, colours)
    (note,) = read_inputs(pair, Options()).notes
    assert note.path == pair.ir and "--ir-palette ironbow, rainbow" in note.text
    got = read_inputs(pair, Options(ir_palette="ironbow"))
    assert got.notes == ()
    assert np.abs(got.ir[..., 0] * 255 - IR).max() <= 1
    np.testing.assert_allclose(
        got.vis[..., 0], levels.luma(colours) / np.float32(255), rtol=1e-6
    )


def test_files_without_a_number_are_refused(tmp_path):
    pair = pair_of(tmp_path, np.full((H, W), np.nan, np.float32), VIS)
    with pytest.raises(UserError, match=r"a\.tif holds no number, only NaN"):
        read_inputs(pair, Options())


# --- pages --------------------------------------------------------------------------


def stack_of(path, count):
    path.parent.mkdir(exist_ok=True)
    images = np.stack([IR.astype(np.uint16) + 100 * n for n in range(count)])
    tifffile.imwrite(path, images if count > 1 else images[0], photometric="minisblack")
    return path


def test_every_page_is_a_pair(tmp_path):
    ir, vis = (stack_of(tmp_path / f"{side}.tif", 12) for side in ("ir", "vis"))
    single = Job(pair_of(tmp_path, IR, VIS), tmp_path / "a.png")
    stack = Job(Pair("s", ir, vis), tmp_path / "s_x2.png")
    found = pages.expand(Collected([single, stack], ["before"]))
    assert found.problems == ["before"] and found.jobs[0] == single
    names = [job.out.name for job in found.jobs[1:]]
    assert names == [f"s_x2_{n:02}.png" for n in range(1, 13)]
    full = Options(ir_range=Range(0, 2000))
    for number, job in enumerate(found.jobs[1:]):
        got = read_inputs(job.pair, full).ir[..., 0] * 2000
        np.testing.assert_allclose(got, IR.astype(int) + 100 * number, rtol=1e-4)


def test_the_first_page_alone_is_said(tmp_path):
    ir, vis = (stack_of(tmp_path / f"{side}.tif", 3) for side in ("ir", "vis"))
    notes = read_inputs(Pair("s", ir, vis), Options()).notes
    assert [note.path for note in notes] == [ir, vis]
    assert all("3 pages" in note.text and "--pages all" in note.text for note in notes)


def test_numbers_of_pages_that_differ(tmp_path):
    ir, vis = stack_of(tmp_path / "ir.tif", 3), stack_of(tmp_path / "vis.tif", 2)
    broken = Job(Pair("b", tmp_path / "b.png", vis), tmp_path / "b.png")
    found = pages.expand(
        Collected([Job(Pair("s", ir, vis), tmp_path / "s.png"), broken])
    )
    (problem,) = found.problems
    assert "ir.tif has 3 pages but" in problem and "vis.tif has 2" in problem
    assert found.jobs == [broken]  # which is named when it is read
