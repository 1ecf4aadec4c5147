"""The page's API, called by a program, and what a stranger may ask of the server."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from web_fixtures import SCALE, H, W, decoded, fetched

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def client(server):
    from gradio_client import Client

    # A loaded machine answers late.
    made = Client(server, verbose=False, httpx_kwargs={"timeout": 300})
    yield made
    made.close()


def test_the_api_fuses(client, pair, expected, tmp_path):
    from gradio_client import handle_file

    ir, vis = map(handle_file, map(str, pair[0]))
    picture, facts = client.predict(
        ir=ir, vis=vis, scale=3, metrics=True, api_name="/fuse"
    )
    with open(picture, "rb") as file:
        np.testing.assert_array_equal(decoded(file.read()), expected["8"])
    assert facts["size"] == [SCALE * W, SCALE * H] and facts["notes"] == []
    assert facts["ir_range"] == facts["vis_range"] == [0, 255]
    assert set(facts["metrics"]) == {"this picture", "bicubic enlargement"}
    deep, _ = client.predict(ir, vis, 3, depth="16", api_name="/fuse")
    with open(deep, "rb") as file:
        np.testing.assert_array_equal(decoded(file.read()), expected["16"])


def test_the_api_is_what_the_documentation_says(client):
    described = client.view_api(return_format="dict", print_info=False)
    assert list(described["named_endpoints"]) == ["/fuse"]
    assert not described["unnamed_endpoints"]
    parameters = described["named_endpoints"]["/fuse"]["parameters"]
    names = [one["parameter_name"] for one in parameters]
    documented = (DOCS / "web.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", documented, re.M)
    assert rows == names
    defaults = {one["parameter_name"]: one["parameter_default"] for one in parameters}
    assert defaults["scale"] == 2 and defaults["model"] == "auto"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"ir_range": "3:1"}, "“Infrared range”: '3:1' is not a range"),
        ({"model": "lite", "scale": 1}, "lite cannot be used at “Scale” 1"),
        ({"model": "/etc"}, "not in the list of choices"),
    ],
)
def test_the_api_refuses_with_a_sentence(client, pair, changed, says):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    ir, vis = map(handle_file, map(str, pair[0]))
    with pytest.raises(AppError, match=re.escape(says)) as caught:
        client.predict(ir=ir, vis=vis, **changed, api_name="/fuse")
    assert "/tmp" not in str(caught.value)


def test_an_address_is_not_fetched(client, pair):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    address = {
        "path": "https://example.org/a.png",
        "meta": {"_type": "gradio.FileData"},
    }
    with pytest.raises(AppError, match="An address is not fetched"):
        client.predict(ir=address, vis=handle_file(str(pair[0][1])), api_name="/fuse")


def test_20_uploads_at_once_are_all_answered(client, pair, expected):
    from gradio_client import handle_file

    jobs = []
    for _ in range(20):
        ir, vis = map(handle_file, map(str, pair[0]))
        jobs.append(client.submit(ir, vis, 3, api_name="/fuse"))
    for job in jobs:
        picture, _ = job.result(timeout=300)
        with open(picture, "rb") as file:
            np.testing.assert_array_equal(decoded(file.read()), expected["8"])


def test_no_path_of_the_server_is_in_the_page(server):
    for address in ("", "config", "gradio_api/info"):
        status, content = fetched(server, address)
        text = content.decode()
        assert status == 200 and "/tmp" not in text and sys.prefix not in text
        assert "fonts.googleapis" not in text
        assert "Traceback" not in text
    config = json.loads(fetched(server, "config")[1])
    assert config["analytics_enabled"] is False


@pytest.mark.parametrize(
    "address",
    [
        "gradio_api/file=/etc/passwd",
        "gradio_api/file=https://example.org/",
        "gradio_api/file=/proc/self/environ",
        "results/x/fused_8bit.png",
        "results/%2e%2e/%2e%2e/etc/passwd",
        "monitoring",
    ],
)
def test_files_of_the_machine_are_not_served(server, address):
    status, content = fetched(server, address)
    assert status in (403, 404) and b"root:" not in content
