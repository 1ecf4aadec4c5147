"""Example pairs: scenes of `data_pipelines`, so that no file need be shipped."""

import threading
from pathlib import Path

from data_pipelines import scenes

_SEED, _SIZE = 11, (120, 160)
# Title -> index of the scene.
TITLES = {
    "Street at night": 1,
    "House at night": 5,
    "Smoke in a street": 7,
    "Country road in the dark": 9,
}


class Examples:
    """Draws each scene when it is first asked for."""

    def __init__(self, folder: Path):
        """Draws nothing yet; the files will be in this folder."""
        self._folder = folder
        self._lock = threading.Lock()

    def files(self, title: str) -> tuple[Path, Path]:
        """The infrared and the visible file of a scene by its title."""
        index = TITLES[title]
        paths = [
            self._folder / side / f"scene_{index:04d}.png" for side in ("ir", "vis")
        ]
        with self._lock:
            if not all(path.exists() for path in paths):
                scenes.write_pairs(self._folder, _SEED, index, 1, *_SIZE)
        return tuple(paths)
