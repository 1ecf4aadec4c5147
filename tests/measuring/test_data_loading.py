"""The timing of the loader."""

import pytest

from hkdnet_jax.measuring import data_loading
from hkdnet_jax.measuring.measure import Settings

SETTINGS = Settings("tiny", scale=2, batch=3, repeats=2, dtype="float32")


def test_a_row_for_each_storage(monkeypatch, capsys):
    asked = {}

    def fed(settings, size, phase, feeds):
        for name, batches in feeds.items():
            asked[name] = next(batches)["ir"].shape
            batches.close()
        assert (settings, size, phase) == (SETTINGS, (16, 16), 2)
        return {key: {"step_seconds": 2.0, "input_wait_share": 0.25} for key in feeds}

    monkeypatch.setattr(data_loading.train_step, "fed", fed)
    monkeypatch.setattr(data_loading, "_PAIRS", 3)
    rows = data_loading.measure_data(SETTINGS, (128, 140))
    assert [row["storage"] for row in rows] == [
        *("jpeg", "png", "tfds", "packed", "cached")
    ]
    by_name = {row["storage"]: row for row in rows}
    for row in rows:
        assert row["size"] == "128x140"
        assert 0 < row["cpu_seconds_min"] <= row["cpu_seconds"]
        assert row["samples_per_core_second"] == pytest.approx(1 / row["cpu_seconds"])
        assert (row["step_seconds"], row["input_wait_share"]) == (2.0, 0.25)
    assert by_name["jpeg"]["relative"] == 1
    # The pixels of both images, and 120 bytes of header and index for a pair at most.
    pixels = 2 * 128 * 140
    assert pixels <= by_name["packed"]["bytes_per_pair"] < pixels + 120
    assert by_name["cached"]["bytes_per_pair"] == pixels
    assert 0 < by_name["jpeg"]["bytes_per_pair"] < by_name["png"]["bytes_per_pair"]
    assert asked == dict.fromkeys(by_name, (3, 32, 32, 1))
    assert "Packed:" in capsys.readouterr().err  # and nothing in the table on stdout


class Clocked:
    """A source each of whose pairs takes a second of the process."""

    def __init__(self):
        self.now = 0.0

    def __len__(self):
        return 2

    def __getitem__(self, index):
        self.now += 1.0
        return {"name": str(index), "ir": index, "vis": index}


def test_what_is_made_ahead_counts_as_made(monkeypatch):
    clocked = Clocked()
    source = data_loading._AsMany(clocked)

    class Batches:
        def __next__(self):
            for number in range(5):
                source[number]

        def close(self):
            source[7]  # one that was made ahead

    monkeypatch.setattr(data_loading, "_batches", lambda *args: Batches())
    monkeypatch.setattr(data_loading.time, "process_time", lambda: clocked.now)
    assert len(source) == 12_000
    assert data_loading._sample_seconds(source, 5, 0) == 1.0
    assert source.visits == 5 * data_loading._BATCHES + 1
