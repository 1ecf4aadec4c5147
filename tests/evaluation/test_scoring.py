"""Scoring pair by pair: sizes, protocols, devices, and what cannot be scored."""

import functools
import os
import signal
import threading
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_fixtures import make_pair, write
from evaluate_fixtures import (
    CHEAP,
    H,
    W,
    expected_values,
    fused_folder,
    picture,
    save_model,
    write_sources,
)

from hkdnet_jax.common import levels
from hkdnet_jax.common.pair_files import Pair, match_folders
from hkdnet_jax.evaluation import scoring
from hkdnet_jax.evaluation.scoring import ModelImages, SavedImages, score_pairs
from hkdnet_jax.inference.options import Options
from hkdnet_jax.inference.shapes import cover
from hkdnet_jax.metrics import METRICS, Metric
from hkdnet_jax.model_files import call
from hkdnet_jax.model_files.model import Model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A student of scale 2 with random weights."""
    return Model.load(save_model(tmp_path_factory.mktemp("models") / "tiny_x2"))


@pytest.fixture
def probes(monkeypatch):
    """Metrics that tell what reached them: the extremes of each image."""
    names = []
    for index, image in enumerate(("IR", "VIS", "F")):
        for name, reduce in (("MIN", np.min), ("MAX", np.max)):

            def compute(*images, index=index, reduce=reduce):
                return reduce(images[index])

            names.append(f"{image}_{name}")
            monkeypatch.setitem(METRICS, names[-1], Metric(compute))
    return names


def pairs_of(root):
    return match_folders(root / "ir", root / "vis")[0]


def saved(folder, protocol="plain"):
    return SavedImages({path.stem: path for path in folder.iterdir()}, protocol)


def sentences(outcomes, kind="errors"):
    return [sentence for outcome in outcomes for sentence in getattr(outcome, kind)]


# --- what is scored -----------------------------------------------------------------


def test_images_are_scored_as_8_bit_gray(tmp_path):
    ir, vis = make_pair(0, H, W)
    image = picture(5)
    write(tmp_path / "ir" / "a.tif", ir.astype(np.uint16) * 257 + 100)
    write(tmp_path / "vis" / "a.png", np.dstack([vis] * 3))
    write(tmp_path / "colour" / "a.bmp", np.dstack([image] * 3))
    write(tmp_path / "deep" / "a.png", image.astype(np.uint16) * 257 - image // 2)
    methods = {name: saved(tmp_path / name) for name in ("colour", "deep")}
    options = Options(ir_range=levels.FULL)
    (outcome,) = score_pairs(pairs_of(tmp_path), methods, CHEAP, options=options)
    expected = pytest.approx(expected_values(ir, vis, image), rel=1e-12)
    assert outcome.values == {"colour": expected, "deep": expected}
    assert outcome.errors == outcome.warnings == []


def test_deep_sources_are_scored_on_their_range(tmp_path):
    ir, vis = make_pair(0, H, W)
    image = picture(5)
    raw = 7000 + 5 * ir.astype(np.uint16)
    raw[0, 0] = 65535  # a hot pixel
    write(tmp_path / "ir" / "a.tif", raw)
    write(tmp_path / "vis" / "a.png", vis)
    write(tmp_path / "f" / "a.png", image)
    methods = {"f": saved(tmp_path / "f")}

    def scored(options=None):
        pairs = pairs_of(tmp_path)
        (outcome,) = score_pairs(pairs, methods, CHEAP, options=options)
        return outcome.values["f"]

    def expected(low, high):
        unit = (raw.astype(float) - low) / (high - low)
        small = np.rint(255 * np.clip(unit, 0, 1))
        return pytest.approx(expected_values(small, vis, image), rel=1e-6)

    ordered = np.sort(raw.ravel())
    assert scored() == expected(ordered[1], ordered[-2])
    given = Options(ir_range=levels.Range(7000, 8000))
    assert scored(given) == expected(7000, 8000)
    assert scored(given) != expected(0, 65535)


def test_the_papers_protocol_stretches_fused_images_alone(tmp_path, probes):
    write_sources(tmp_path)
    levels = 100 + np.arange(H * W).reshape(H, W) % 51
    for stem in "abc":
        write(tmp_path / "f" / f"{stem}.png", levels.astype(np.uint8))
    methods = {p: saved(tmp_path / "f", p) for p in scoring.PROTOCOLS}
    for seed, outcome in enumerate(score_pairs(pairs_of(tmp_path), methods, probes)):
        ir, vis = make_pair(seed, H, W)
        extremes = {"IR_MIN": ir.min(), "IR_MAX": ir.max()}
        extremes |= {"VIS_MIN": vis.min(), "VIS_MAX": vis.max()}
        assert outcome.values["plain"] == extremes | {"F_MIN": 100, "F_MAX": 150}
        assert outcome.values["paper"] == extremes | {"F_MIN": 0, "F_MAX": 255}


def test_sources_are_cropped_to_a_multiple_of_the_scale(model, tmp_path, probes):
    for folder, level in (("ir", 200), ("vis", 220), ("f", 240)):
        for stem in "ab":
            image = picture(len(folder), H + 1, W + 1) // 2
            if stem == "b":
                image = image[:-1, :-1]
            else:
                image[-1] = level  # in the row that is cut off
            write(tmp_path / folder / f"{stem}.png", image)
    methods = {"f": saved(tmp_path / "f"), "m": ModelImages(model, "m", "plain")}
    outcomes = score_pairs(pairs_of(tmp_path), methods, probes, 2)
    assert [outcome.cropped for outcome in outcomes] == [True, False]
    assert sentences(outcomes) == []
    for outcome in outcomes:
        for values in outcome.values.values():
            assert values["IR_MAX"] < 128 and values["VIS_MAX"] < 128
    assert outcomes[0].values["f"]["F_MAX"] < 128


def test_saved_images_beside_a_model_may_have_the_cropped_size(tmp_path):
    ir, vis = make_pair(0, H + 1, W + 1)
    image = picture(5, H + 1, W + 1)
    write(tmp_path / "ir" / "a.png", ir)
    write(tmp_path / "vis" / "a.png", vis)
    write(tmp_path / "whole" / "a.png", image)
    write(tmp_path / "cropped" / "a.png", image[:H, :W])
    write(tmp_path / "between" / "a.png", image[:H])
    methods = {n: saved(tmp_path / n) for n in ("whole", "cropped", "between")}
    (outcome,) = score_pairs(pairs_of(tmp_path), methods, CHEAP, 2)
    (error,) = outcome.errors
    assert error.startswith(
        f"{tmp_path / 'between' / 'a.png'} is {W + 1}x{H} but its source "
    )
    assert f"{W + 1}x{H + 1} (or {W}x{H})" in error
    expected = expected_values(ir[:H, :W], vis[:H, :W], image[:H, :W])
    expected = pytest.approx(expected, rel=1e-12)
    assert outcome.values == {"whole": expected, "cropped": expected}


# --- what cannot be scored ----------------------------------------------------------


def test_pairs_too_small_for_the_model(model, tmp_path):
    write_sources(tmp_path, "abc")
    fused_folder(tmp_path / "f")
    for folder in ("ir", "vis", "f"):
        write(tmp_path / folder / "d.png", picture(3, 15, 15))
        write(tmp_path / folder / "e.png", picture(3, 1, 40))
    methods = {"f": saved(tmp_path / "f"), "m": ModelImages(model, "m", "plain")}
    outcomes = score_pairs(pairs_of(tmp_path), methods, CHEAP, 2)
    small, least = sentences(outcomes)
    assert f"{tmp_path / 'ir' / 'd.png'} is 14x14 pixels, too small for m" in small
    assert "16" in small
    assert f"{tmp_path / 'ir' / 'e.png'} is smaller than the scale 2" in least
    both = [["f", "m"]] * 3
    assert [list(outcome.values) for outcome in outcomes] == [*both, ["f"], []]


def test_images_too_small_for_a_metric(tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, "AG", replace(METRICS["AG"], min_side=W))
    monkeypatch.setitem(METRICS, "CC", replace(METRICS["CC"], min_side=H))
    write_sources(tmp_path)
    fused_folder(tmp_path / "f")
    for folder in ("ir", "vis", "f"):
        write(tmp_path / folder / "b.png", picture(2, W, W))
    methods = {"one": saved(tmp_path / "f"), "again": saved(tmp_path / "f")}
    outcomes = score_pairs(pairs_of(tmp_path), methods, CHEAP)
    errors = sentences(outcomes)
    assert len(errors) == 2  # once a pair, not once a method
    for error, stem in zip(errors, "ac", strict=True):
        path = tmp_path / "ir" / f"{stem}.png"
        assert error.startswith(f"{path} is {W}x{H} pixels, too small for AG ")
        assert str(W) in error and "CC" not in error
    for name in methods:
        values = [outcome.values[name] for outcome in outcomes]
        assert [np.isnan(v["AG"]) for v in values] == [True, False, True]
        assert not any(np.isnan(v["CC"]) for v in values)


def test_flat_images_are_warned_about(tmp_path):
    write_sources(tmp_path)
    fused_folder(tmp_path / "f")
    write(tmp_path / "ir" / "a.png", np.full((H, W), 77, np.uint8))
    write(tmp_path / "f" / "b.png", np.full((H, W), 77, np.uint8))
    outcomes = score_pairs(pairs_of(tmp_path), {"f": saved(tmp_path / "f")}, CHEAP)
    assert sentences(outcomes) == []
    assert sentences(outcomes, "warnings") == [
        f"{tmp_path / 'ir' / 'a.png'} is flat: no value for CC.",
        f"{tmp_path / 'f' / 'b.png'} is flat: no value for CC.",
    ]
    values = [outcome.values["f"] for outcome in outcomes]
    assert [np.isnan(v["CC"]) for v in values] == [True, True, False]
    assert values[1]["AG"] < 1e-15


def test_values_without_a_flat_image_to_blame(tmp_path):
    write_sources(tmp_path, "a")
    image = (tmp_path / "ir" / "a.png").read_bytes()
    fused = fused_folder(tmp_path / "f", "a") / "a.png"
    for path in (tmp_path / "vis" / "a.png", fused):
        path.write_bytes(image)
    outcomes = score_pairs(pairs_of(tmp_path), {"f": saved(tmp_path / "f")}, ("SCD",))
    (warning,) = sentences(outcomes, "warnings")
    assert warning.startswith(f"{fused} has no finite SCD")


def test_memory_that_runs_out_for_one_pair(model, tmp_path, monkeypatch):
    real = call._forward

    def forward(network, params, ir, vis):
        if ir.shape[2] > W // 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.")
        return real(network, params, ir, vis)

    monkeypatch.setattr(call, "_forward", forward)
    write_sources(tmp_path)
    for folder in ("ir", "vis"):
        write(tmp_path / folder / "b.png", picture(1, H, W + 2))
    method = ModelImages(model, "m", "plain")
    outcomes = score_pairs(pairs_of(tmp_path), {"m": method}, CHEAP, 2)
    (error,) = sentences(outcomes)
    assert f"{tmp_path / 'ir' / 'b.png'} is {W + 2}x{H} pixels" in error
    assert [list(outcome.values) for outcome in outcomes] == [["m"], [], ["m"]]
    # A defect is not the user's mistake, and the device is free for others after it.
    broken = jax.errors.JaxRuntimeError("INTERNAL: something else")
    monkeypatch.setattr(call, "_forward", lambda *_: (_ for _ in ()).throw(broken))
    ir, vis = make_pair(0, H, W)
    for _ in range(2 * len(jax.local_devices())):
        with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
            method.fuse(Pair("a", "ir.png", "vis.png"), ir, vis)


# --- folders of any length ----------------------------------------------------------


def test_every_device_fuses_one_pair_at_a_time(model, tmp_path, monkeypatch):
    devices = jax.local_devices()
    assert len(devices) == 4
    together = threading.Barrier(len(devices), timeout=60)
    at_work, used = [], []

    def fuse_pair(model, ir, vis, normalize, stretch):
        (device,) = {leaf.device for leaf in jax.tree.leaves(model.params)}
        assert jnp.zeros(1).device == device  # where the inputs go
        assert device not in at_work
        at_work.append(device)
        together.wait()  # only passes if all devices are at work side by side
        used.append(device)
        at_work.remove(device)
        return np.repeat(np.repeat(ir, 2, 0), 2, 1)

    monkeypatch.setattr(scoring, "fuse_pair", fuse_pair)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    write_sources(tmp_path, "abcdefgh")
    method = ModelImages(model, "m", "plain")
    outcomes = score_pairs(pairs_of(tmp_path), {"m": method}, ("CC",), 2)
    assert [outcome.errors for outcome in outcomes] == [[]] * 8
    assert set(used) == set(devices) and len(used) == 8


def test_work_in_flight_is_bounded_and_results_are_in_order(monkeypatch, capfd):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(scoring.jax, "local_device_count", lambda: 1)
    # Widths that differ: the pairs of one size are done together.
    widths = {f"{number:03}": number % 2 for number in range(50)}
    monkeypatch.setattr(scoring, "image_size", lambda path: (1, widths[path]))
    begun, running, most = [], [], []

    def score_pair(pair, methods, names, scale, options):
        begun.append(pair.name)
        running.append(pair.name)
        most.append(len(running))
        time.sleep(0.002)  # else one thread could do it all
        running.remove(pair.name)
        return scoring.Outcome(errors=[pair.name])

    monkeypatch.setattr(scoring, "score_pair", score_pair)
    pairs = [Pair(name, name, name) for name in widths]
    outcomes = score_pairs(pairs, {}, ())
    assert [outcome.errors for outcome in outcomes] == [[name] for name in widths]
    assert 1 < max(most) <= 3
    last_even, first_odd = begun.index("048"), begun.index("001")
    assert abs(last_even - first_odd) <= 3
    assert "50/50" in capfd.readouterr().err


def test_programs_of_many_sizes_do_not_pile_up(model, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "_SIZES_KEPT", 2)
    monkeypatch.setattr(scoring, "cover", functools.partial(cover, most=3))
    cleared, shapes = [], []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(1))

    def fuse_pair(model, ir, vis, normalize, stretch, pad_to=None):
        shapes.append(pad_to or ir.shape)
        return np.repeat(np.repeat(ir, 2, 0), 2, 1)

    monkeypatch.setattr(scoring, "fuse_pair", fuse_pair)
    images = {}
    for number in range(8):
        size = H, W + 2 * number
        images[number] = [*make_pair(number, *size), picture(9, *size)]
        for folder, image in zip(("ir", "vis", "f"), images[number], strict=True):
            write(tmp_path / folder / f"{number}.png", image)
    pairs = pairs_of(tmp_path)
    outcomes = score_pairs(pairs, {"f": saved(tmp_path / "f")}, CHEAP)
    for number, outcome in enumerate(outcomes):
        expected = expected_values(*images[number])
        assert outcome.values["f"] == pytest.approx(expected, rel=1e-12)
    score_pairs(pairs, {"m": ModelImages(model, "m", "plain", pairs)}, CHEAP, 2)
    assert cleared == [] and len(shapes) == 8 and len(set(shapes)) == 3
    # The authors' network has a program for each size.
    monkeypatch.setattr(scoring, "pads", lambda network: False)
    shapes.clear()
    score_pairs(pairs, {"m": ModelImages(model, "m", "plain", pairs)}, CHEAP, 2)
    assert len(cleared) == 2 and len(set(shapes)) == 8


@pytest.fixture
def real_interrupts():
    """As in a terminal, also where the tests were started without one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_after_an_interrupt_no_other_pair_is_begun(
    tmp_path, capfd, monkeypatch, real_interrupts
):
    # One pair again and again: only the moment of the signal is made, not the work.
    write_sources(tmp_path, "a")
    fused_folder(tmp_path / "f", "a")
    (a,), count = pairs_of(tmp_path), 200
    pairs = [Pair(f"{number:03}", a.ir, a.vis) for number in range(count)]
    method = SavedImages({p.name: tmp_path / "f" / "a.png" for p in pairs}, "plain")
    real, begun = scoring.score_pair, []

    def score_pair(*args, **more):
        begun.append(1)
        if len(begun) == 10:
            os.kill(os.getpid(), signal.SIGINT)
        if len(begun) > 10:
            time.sleep(0.05)  # the main thread needs a moment to notice
        return real(*args, **more)

    monkeypatch.setattr(scoring, "score_pair", score_pair)
    with pytest.raises(KeyboardInterrupt):
        score_pairs(pairs, {"f": method}, CHEAP)
    noticed = len(begun)
    assert 10 <= noticed < count / 2
    time.sleep(0.3)  # those at work were waited for
    assert len(begun) == noticed
    assert f"/{count}" in capfd.readouterr().err
