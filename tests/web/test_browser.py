"""The page in a real browser: one server and one browser for all tests."""

import os
import re
import shutil
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image
from web_fixtures import SCALE, H, W, connect, decoded, fetched

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT = 300_000  # milliseconds; a loaded machine compiles slowly
MEGABYTE = 10**6


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: no browser to see the page in")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as started:
        sandbox = [] if os.getuid() else ["--no-sandbox"]
        running = started.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield running
        running.close()


@pytest.fixture(scope="module")
def visitor(browser):
    """One profile, which keeps what the page loads: megabytes of scripts."""
    # Nothing moves: drawing takes most of the time of a browser without a GPU.
    context = browser.new_context(reduced_motion="reduce")
    context.set_default_timeout(WAIT)
    yield context
    context.close()


@pytest.fixture
def page(visitor, server):
    """The page, drawn; what it asked for and complained of is checked at the end."""
    tab = visitor.new_page()
    tab.set_viewport_size({"width": 1200, "height": 900})
    asked, wrong = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.goto(server)
    tab.get_by_role("button", name="Fuse the pair").wait_for()
    yield tab
    tab.close()
    assert asked and not wrong
    elsewhere = [x for x in asked if not x.startswith((server, "data:", "blob:"))]
    assert not elsewhere


def upload(page, label, path):
    """Drops a file on a field, as a visitor does who uses the keyboard."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=f"{label}: choose a file").press("Enter")
    chooser.value.set_files(path)


def upload_pair(page, files):
    for label, file in zip(("Infrared picture", "Visible picture"), files, strict=True):
        upload(page, label, file)
        name = label.removesuffix(" picture").lower()
        page.get_by_alt_text(f"Preview of the {name} picture").wait_for()


def test_a_pair_that_is_uploaded(page, server, pair, expected, tmp_path):
    upload_pair(page, pair[0])
    page.get_by_role("radio", name="3", exact=True).check()
    page.get_by_label("Compute the metrics of the pair").check()
    page.get_by_role("button", name="Fuse the pair").press("Enter")
    page.locator(".hk-viewer").wait_for()
    size = f"{SCALE * W}x{SCALE * H}"
    said = page.get_by_text(f"Fused to {size} pixels in")
    assert said.get_attribute("role") == "status"
    for depth in ("8", "16"):
        with page.expect_download() as download:
            page.get_by_role("link", name=f"Download PNG, {depth} bits").click()
        path = tmp_path / f"{depth}.png"
        download.value.save_as(path)
        found = decoded(path.read_bytes())
        np.testing.assert_array_equal(found, expected[depth])
    shown = page.get_by_alt_text("After: the fused picture")
    assert shown.evaluate("e => [e.naturalWidth, e.naturalHeight]") == [192, 144]
    status, content = fetched(server, shown.get_attribute("src"))
    assert status == 200
    np.testing.assert_array_equal(decoded(content), expected["8"])
    rows = page.locator(".hk-table").get_by_role("row").all_inner_texts()
    assert len(rows) == 7 and rows[3].split()[0] == "SCD"
    _check_the_viewer(page)
    text = page.locator("body").inner_text()
    assert "/tmp" not in text and "Traceback" not in text


def _check_the_viewer(page):
    view = page.locator(".hk-viewer")
    line = page.get_by_role("slider", name="Before and after")
    line.focus()
    line.press("ArrowLeft")
    assert view.evaluate("e => e.style.getPropertyValue('--split')") == "49%"
    assert line.get_attribute("aria-valuetext") == "49 % before"
    picture = page.get_by_alt_text("After: the fused picture")
    clipped = picture.evaluate("e => getComputedStyle(e).clipPath")
    assert "49%" in clipped
    page.get_by_label("Zoom").select_option("200 %")
    assert picture.bounding_box()["width"] == pytest.approx(2 * SCALE * W, abs=1)
    assert picture.evaluate("e => getComputedStyle(e).imageRendering") == "pixelated"
    page.get_by_label("Zoom").select_option("Fit")
    box = picture.bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 20)
    page.mouse.up()
    assert line.input_value() == "75"


def test_a_deep_tiff_is_previewed_and_follows_its_range(page, pair, tmp_path):
    deep = tmp_path / "deep.tiff"
    tifffile.imwrite(deep, pair[1][0].astype(np.uint16) * 10 + 7000)
    upload(page, "Infrared picture", deep)
    preview = page.get_by_alt_text("Preview of the infrared picture")
    preview.wait_for()
    before = preview.get_attribute("src")
    page.get_by_role("button", name="Levels and registration").click()
    page.get_by_label("Infrared range").fill("x")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text().startswith("“Infrared range”: 'x' is not a range")
    page.get_by_label("Infrared range").fill("7000:20000")
    preview.wait_for()
    assert preview.get_attribute("src") != before


def test_files_that_cannot_be_fused_give_the_sentence(page, pair, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(pair[0][0].read_bytes()[:100])
    page.get_by_role("button", name="Fuse the pair").click()
    alert = page.get_by_role("alert")
    alert.get_by_text("Choose an infrared and a visible picture first").wait_for()
    upload(page, "Infrared picture", broken)
    alert.get_by_text("broken.png cannot be read as an image").wait_for()
    page.get_by_role("button", name="Infrared picture: remove the file").click()
    small = tmp_path / "small.png"
    Image.fromarray(pair[1][0][:40]).save(small)
    upload_pair(page, (small, pair[0][1]))
    page.get_by_role("button", name="Fuse the pair").click()
    said = "small.png is 64x40 but vis.png is 64x48: give “Match sizes” if they show"
    alert.get_by_text(said).wait_for()
    assert page.get_by_role("alert").count() == 1
    assert not page.locator(".hk-viewer").count()


def test_a_file_of_60_mb_is_refused(page, server, tmp_path):
    large = tmp_path / "large.tiff"
    with large.open("wb") as file:
        file.truncate(60 * MEGABYTE)
    upload(page, "Infrared picture", large)
    page.get_by_text(
        re.compile(r"exceed the maximum allowed size of 50(\.0)? Mb")
    ).first.wait_for()
    # A program that does not ask the page is refused by the server.
    connection = connect(server)
    form = {
        "Content-Type": "multipart/form-data; boundary=x",
        "Content-Length": str(60 * MEGABYTE),
    }
    connection.request("POST", "/gradio_api/upload", headers=form)
    answer = connection.getresponse()
    said = answer.read().decode()
    connection.close()
    assert answer.status == 413 and said.startswith(
        "The upload has more than the 50 MB"
    )


def test_an_example_and_an_archive(page, server, pair, expected, tmp_path):
    page.get_by_role("button", name="House at night").click()
    page.get_by_alt_text("Preview of the visible picture").wait_for()
    archive = tmp_path / "pairs.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for side, file in zip(("ir", "vis"), pair[0], strict=True):
            out.write(file, f"set/{side}/a.png")
            out.writestr(f"set/{side}/b.png", b"broken")
    page.get_by_role("tab", name="Many pairs").click()
    upload(page, "ZIP archive of pairs", archive)
    page.get_by_role("radio", name="16", exact=True).check()
    page.get_by_role("radio", name="3", exact=True).check()
    page.get_by_text("pairs", exact=False).first.wait_for()
    page.get_by_role("button", name="Fuse the archive").click()
    link = page.get_by_role("link", name="Download the 1 fused pictures (ZIP)")
    with page.expect_download() as download:
        link.click()
    path = tmp_path / "fused.zip"
    download.value.save_as(path)
    with zipfile.ZipFile(path) as opened:
        assert sorted(opened.namelist()) == ["a.png", "problems.txt"]
        found = decoded(opened.read("a.png"))
        problems = opened.read("problems.txt").decode()
    np.testing.assert_array_equal(found, expected["16"])
    assert problems.startswith("pairs.zip/set/ir/b.png cannot be read as an image")
    assert "1 pairs were fused, 1 were not." in page.locator("body").inner_text()


def test_every_field_has_a_name_and_the_keyboard_reaches_it(page):
    page.get_by_role("button", name="Levels and registration").click()
    page.get_by_label("Infrared palette").wait_for()
    fields = page.get_by_role("main").or_(page.locator("gradio-app")).first
    tree = fields.aria_snapshot()
    # Roles without a name stand alone in the tree of accessibility.
    nameless = re.findall(
        r"- (?:button|textbox|checkbox|radio|slider|combobox|listbox)"
        r"(?: \[[^\]]*\])*:?$",
        tree,
        re.M,
    )
    assert not nameless, tree
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "() => { const e = document.activeElement; return e.getAttribute("
                "'aria-label') || e.labels?.[0]?.innerText || e.innerText }"
            )
        )
    said = " ".join(text or "" for text in reached)
    for name in (
        *("Infrared picture: choose", "Visible picture: choose", "Street at night"),
        *("Model", "Colour", "Infrared range", "Match sizes", "Align", "Fuse the pair"),
    ):
        assert name in said, name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_400_pixels_in_light_and_dark(visitor, server, scheme):
    page = visitor.new_page()
    page.set_viewport_size({"width": 400, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(server)
    page.get_by_role("button", name="Fuse the pair").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    colours = page.evaluate(
        "() => { const s = getComputedStyle(document.querySelector('h1'));"
        "return [s.color, getComputedStyle(document.body).backgroundColor] }"
    )
    text, ground = (
        np.mean([int(x) for x in re.findall(r"\d+", c)[:3]]) for c in colours
    )
    assert (
        (text < 60 and ground > 230)
        if scheme == "light"
        else (text > 230 and ground < 40)
    )
    page.close()


def test_a_browser_without_scripts_gets_a_sentence(browser, server):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(server)
    said = page.locator("noscript").inner_text()
    context.close()
    assert said.startswith("This page needs JavaScript: switch it on")
