"""Results under addresses that nobody can guess, for a while."""

import time

from hkdnet_jax.web.shelf import Shelf


def test_a_file_is_found_at_its_address_alone(tmp_path):
    shelf = Shelf(tmp_path / "results")
    addresses = shelf.put({"a.png": b"first", "b.zip": b"second"})
    route, token, name = addresses["a.png"].split("/")
    assert (route, name) == ("results", "a.png") and len(token) > 20
    assert shelf.find(token, "a.png").read_bytes() == b"first"
    assert shelf.path(addresses["b.zip"]).read_bytes() == b"second"
    others = shelf.put({"a.png": b"third"})
    assert others["a.png"] != addresses["a.png"]
    (tmp_path / "secret").write_text("x")
    for unknown in ("c.png", "../../secret", "..", ""):
        assert shelf.find(token, unknown) is None
    for unknown in ("", ".", "..", "../..", "nobody"):
        assert shelf.find(unknown, "secret") is None


def test_old_results_are_deleted(tmp_path):
    shelf = Shelf(tmp_path, seconds=0.05)
    _, old, _ = shelf.put({"a.png": b"old"})["a.png"].split("/")
    time.sleep(0.1)
    _, new, _ = shelf.put({"a.png": b"new"})["a.png"].split("/")
    assert shelf.find(old, "a.png") is None and not (tmp_path / old).exists()
    assert shelf.find(new, "a.png") is not None
