"""A running page, and a pair of pictures for it."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from web_fixtures import SCALE, H, W

from data_pipelines import scenes

CALL = f"""
import sys
import numpy as np
from PIL import Image
import hkdnet_jax
*pair, shallow, deep = sys.argv[1:]
ir, vis = (np.asarray(Image.open(path)) for path in pair)
model = hkdnet_jax.load(scale={SCALE})
np.save(shallow, model(ir, vis))
np.save(deep, model(ir, vis, depth="16"))
"""


@pytest.fixture(scope="package")
def pair(tmp_path_factory):
    """(files, arrays) of a made scene."""
    folder = tmp_path_factory.mktemp("pair")
    arrays = scenes.render(1, 2, H, W)
    files = [folder / f"{side}.png" for side in ("ir", "vis")]
    for file, array in zip(files, arrays, strict=True):
        Image.fromarray(array).save(file)
    return files, arrays


@pytest.fixture(scope="package")
def expected(pair, tmp_path_factory):
    """What the model of the package makes of the pair, by depth.

    In a process of its own, with the devices of the server: the four of the tests add
    up in another order, which 16 bits show.
    """
    files = [tmp_path_factory.mktemp("expected") / f"{depth}.npy" for depth in (8, 16)]
    command = [sys.executable, "-c", CALL, *pair[0], *files]
    subprocess.run(command, check=True)
    return {file.stem: np.load(file) for file in files}


@pytest.fixture(scope="package")
def server(tmp_path_factory):
    """The address of a running page."""
    # A proxy would be asked for 127.0.0.1 too.
    proxies = {name for name in os.environ if name.lower().endswith("_proxy")}
    kept = {name: os.environ[name] for name in os.environ.keys() - proxies}
    log = (tmp_path_factory.mktemp("log") / "stderr").open("w+")
    command = [
        sys.executable,
        "-m",
        "hkdnet_jax.demo",
        "--port",
        "0",
        "--time-limit",
        "600",
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name in proxies:
            patch.delenv(name)
        patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")  # for gradio_client
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=kept
        )
        try:
            line = process.stdout.readline()
            found = re.match(r"Open (http://127\.0\.0\.1:\d+/) in a browser", line)
            assert found, line
            yield found[1]
        finally:
            process.terminate()
            process.communicate(timeout=300)
            log.seek(0)
            said = log.read()
            log.close()
    # What the page logs of errors that nobody foresaw.
    assert "a request failed" not in said, said
