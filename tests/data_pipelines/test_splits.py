"""Dividing pairs into training and validation, by split files and by hash."""

from pathlib import Path

import pytest

from data_pipelines.splits import read_split, split_pairs
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.pair_files import Pair


def made_up(names) -> list[Pair]:
    return [Pair(name, Path("ir", name), Path("vis", name)) for name in names]


def names_of(pairs) -> list[str]:
    return [pair.name for pair in pairs]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_read_split(tmp_path):
    text = "\ufeff# header\n\n a b \r\nroot/c#1  # why\n#d\n"
    assert read_split(write(tmp_path / "s.txt", text)) == ["a b", "root/c#1"]
    with pytest.raises(UserError, match=r"e\.txt names no pair"):
        read_split(write(tmp_path / "e.txt", "# nothing\n"))
    with pytest.raises(UserError, match=r"no\.txt cannot be read"):
        read_split(tmp_path / "no.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"b\.txt cannot be read"):
        read_split(tmp_path / "b.txt")


def test_split_files(tmp_path):
    pairs = made_up(["x/1", "x/2", "x/3", "y/1", "y/4"])
    train_file = write(tmp_path / "train.txt", "4\nx/1\nx/1\n")
    val_file = write(tmp_path / "val.txt", "3\ny/1\n")
    train, val = split_pairs(pairs, train_file, val_file, 0.1)
    assert names_of(train) == ["x/1", "y/4"] and names_of(val) == ["x/3", "y/1"]
    train, val = split_pairs(pairs, train_file, "", 0.1)
    assert names_of(val) == ["x/2", "x/3", "y/1"]
    train, val = split_pairs(pairs, "", val_file, 0.1)
    assert names_of(train) == ["x/1", "x/2", "y/4"] and names_of(val) == ["x/3", "y/1"]


def test_split_file_mistakes(tmp_path):
    pairs = made_up(["x/1", "x/2", "y/1"])
    unknown = write(tmp_path / "unknown.txt", "2\nx/9\n2.png\n")
    with pytest.raises(UserError, match=r"unknown\.txt.*: x/9; 2\.png\.$"):
        split_pairs(pairs, unknown, "", 0.1)
    vague = write(tmp_path / "vague.txt", "1\n")
    with pytest.raises(UserError, match=r"vague\.txt.*rootname/stem.*: 1\.$"):
        split_pairs(pairs, vague, "", 0.1)
    one, two = write(tmp_path / "one", "x/1\nx/2"), write(tmp_path / "two", "2\n")
    with pytest.raises(UserError, match=r"one and .*two both name x/2"):
        split_pairs(pairs, one, two, 0.1)
    everything = write(tmp_path / "all", "x/1\nx/2\ny/1\n")
    with pytest.raises(UserError, match="No pair is left for training"):
        split_pairs(pairs, "", everything, 0.1)


def test_hash_split_is_stable():
    pairs = made_up([f"root/{i}" for i in range(2000)])
    train, val = split_pairs(pairs, "", "", 0.1)
    assert 150 < len(val) < 250
    assert sorted(names_of(train + val)) == sorted(names_of(pairs))
    # Frozen: another version must not move pairs between training and validation.
    assert names_of(val)[:4] == ["root/9", "root/39", "root/49", "root/51"]
    # More pairs, another order or another folder name move none of them.
    renamed = made_up([f"other/{i}" for i in reversed(range(3000))])
    more = set(names_of(split_pairs(renamed, "", "", 0.1)[1]))
    kept = {f"other/{i}" for i in range(2000)} & more
    assert kept == {name.replace("root", "other") for name in names_of(val)}
    # A larger fraction only adds.
    assert set(val) < set(split_pairs(pairs, "", "", 0.2)[1])


def test_hash_split_of_one_pair_is_for_training():
    for stem in range(20):
        pairs = made_up([f"r/{stem}"])
        assert split_pairs(pairs, "", "", 0.5) == (pairs, [])


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.999])
def test_hash_split_of_few_pairs_leaves_no_side_empty(count, fraction):
    for start in range(20):
        pairs = made_up([f"r/{start + i}" for i in range(count)])
        train, val = split_pairs(pairs, "", "", fraction)
        assert train and val and len(train) + len(val) == count


def test_hash_split_limits():
    pairs = made_up(["r/1", "r/2"])
    assert split_pairs(pairs, "", "", 0.0) == (pairs, [])
    assert split_pairs(pairs[:1], "", "", 0.0) == (pairs[:1], [])
    for bad in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="val_fraction is"):
            split_pairs(pairs, "", "", bad)
