"""What several processes compare before they train together."""

import hashlib
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.runtime import agreement

SAME = {"code": "a", "data": "b"}


def test_equal_facts_are_no_difference():
    assert agreement.difference(["one", "two"], [SAME, dict(SAME)]) is None
    assert agreement.difference(["one"], [SAME]) is None


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        # The odd one out is named, wherever it stands.
        ([SAME, SAME, SAME | {"data": "x"}], "process 2 on h2 in data"),
        ([SAME | {"data": "x"}, SAME, SAME], "process 0 on h0 in data"),
        # In two things at once.
        ([SAME, SAME, {"code": "x", "data": "y"}], "process 2 on h2 in code and data"),
        # Two processes in different things.
        (
            [SAME | {"code": "x"}, SAME, SAME | {"data": "y"}],
            "process 0 on h0 in code; process 2 on h2 in data",
        ),
        # No majority: the first process is right.
        ([SAME, SAME | {"code": "x"}], "process 1 on h1 in code"),
        (
            [SAME | {"code": c} for c in "abc"],
            "process 1 on h1 and process 2 on h2 in code",
        ),
    ],
)
def test_a_difference_is_one_sentence(facts, says):
    hosts = [f"h{i}" for i in range(len(facts))]
    said = agreement.difference(hosts, facts)
    assert f": {says}: give all of them the same" in said
    assert said.startswith(f"Of {len(facts)} processes") and said.count(". ") == 0


def test_a_long_list_of_processes_is_cut():
    facts = [SAME] * 20 + [SAME | {"code": "x"}] * 12
    said = agreement.difference([f"h{i}" for i in range(32)], facts)
    assert "process 27 on h27 and 4 more in code" in said and "h28" not in said


def test_the_code_version_is_that_of_the_files(tmp_path, monkeypatch):
    def version(**files):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            file = root / "hkdnet_jax" / "runtime" / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        monkeypatch.setattr(
            agreement, "__file__", str(root / "hkdnet_jax" / "runtime" / "agreement.py")
        )
        return agreement.code_version()

    here = agreement.code_version()
    assert here == agreement.code_version() and len(here) == 64
    one = version(a="x = 1", b="y")
    assert one == version(a="x = 1", b="y") == _by_hand({"a": "x = 1", "b": "y"})
    others = {version(a="x = 2", b="y"), version(a="x = 1"), version(a="x = 1", c="y")}
    assert len(others | {one}) == 4


def _by_hand(files):
    sha = hashlib.sha256()
    for name, text in files.items():
        path = Path("hkdnet_jax", "runtime", f"{name}.py")
        sha.update(str(path).encode() + b"\0" + text.encode())
    return sha.hexdigest()


# `check`, with made-up other processes (test_processes.py has real ones)


@pytest.fixture
def others(monkeypatch):
    """A function that makes this process one of several, whose facts are given."""

    def pretend(facts, count=None, indices=None):
        monkeypatch.setattr(jax, "process_count", lambda: count or len(facts))
        monkeypatch.setattr(jax, "process_index", lambda: 0)

        def gather(mine):
            rows = []
            for number, one in enumerate(facts):
                hexes = [one[name] for name in sorted(one)]
                raw = [np.frombuffer(bytes.fromhex(h), np.uint8) for h in hexes]
                host = f"node{number}".encode().ljust(64, b"\0")
                index = number if indices is None else indices[number]
                rows.append((index, np.frombuffer(host, np.uint8), np.stack(raw)))
            index, host, fact = (np.stack(x) for x in zip(*rows, strict=True))
            assert host.shape[1:] == mine["host"].shape
            assert fact.shape[1:] == mine["facts"].shape
            return {"index": index.astype(np.int32), "host": host, "facts": fact}

        monkeypatch.setattr(multihost_utils, "process_allgather", gather)

    return pretend


FACTS = {"data": agreement.digest("b"), "code": agreement.digest("a")}


def test_agreement_is_said_once(others, capsys):
    others([FACTS] * 3)
    agreement.check(FACTS)
    said = "3 processes on node0, node1 and node2 agree on code and data.\n"
    assert capsys.readouterr().err == said


def test_the_gathered_facts_are_compared_in_the_order_of_processes(others):
    # Gathered out of order: the process of index 2 is the first row.
    others([FACTS | {"code": agreement.digest("x")}, FACTS, FACTS], indices=[2, 0, 1])
    with pytest.raises(UserError, match="process 2 on node0 in code: give all"):
        agreement.check(FACTS)


def test_a_process_that_is_not_seen_is_named(others):
    # Two processes that both believe to be the first of three.
    others([FACTS, FACTS, FACTS], indices=[0, 0, 1])
    with pytest.raises(UserError, match=r"sees 2 of 3 processes, without \[2\]"):
        agreement.check(FACTS)
