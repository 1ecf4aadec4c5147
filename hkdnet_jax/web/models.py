"""The models that a visitor can choose."""

import functools
from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax import pretrained
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.pretrained.arguments import load_model

AUTO = "auto"  # the one that comes with the package for the scale


class Models:
    """The models of the package, and those of some directories, by name."""

    def __init__(self, directories: Sequence[Path] = ()):
        """Loads the directories.

        Args:
          directories: model directories; the last part of each is its name.

        Raises:
          UserError: one cannot be loaded, or its name is that of another model.
        """
        self._own: dict[str, Model] = {}
        for directory in directories:
            name = directory.resolve().name
            if name in self.names:
                raise UserError(
                    f"--model {directory}: the page has a model named {name} already: "
                    "rename the folder."
                )
            self._own[name] = load_model(str(directory), None)
        self._shipped = functools.cache(load_model)

    @property
    def names(self) -> tuple[str, ...]:
        """What `get` takes."""
        return (AUTO, *pretrained.names(), *self._own)

    def get(self, name: str, scale: int) -> Model:
        """The model of a name, at a scale.

        Raises:
          UserError: there is none, or it has another scale.
        """
        if name not in self.names:
            raise UserError(
                f"{name!r} is no model of this page: choose {', '.join(self.names)}."
            )
        if name not in self._own:
            return self._shipped(None if name == AUTO else name, scale)
        model = self._own[name]
        try:
            return model.at(scale)
        except ValueError as error:
            raise UserError(
                f"{name} {error}: choose --scale {model.scale}, or another --model."
            ) from error
