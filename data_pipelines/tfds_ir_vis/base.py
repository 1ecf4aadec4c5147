"""The base of all builders, which turns pairs of files into records.

A record holds the unchanged bytes of the two files, so nothing is lost or encoded
twice, and TensorFlow is not needed to write or read records.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.tfds_ir_vis.layouts import Layout, LayoutMissing
from hkdnet_jax.common import archives
from hkdnet_jax.common.errors import UserError, listing
from hkdnet_jax.common.image_files import to_8_bit
from hkdnet_jax.common.image_formats import decode
from hkdnet_jax.common.pair_files import Pair, read_pair

# What an archive may hold.  Pictures are compressed already, and even bitmaps of night
# scenes shrink to no less than a tenth.
_EXPANSION = 20  # times the size of the archive
_ROOM = 10**8  # bytes beyond it, for small archives
_MOST_FILES = 500_000


@dataclass(frozen=True)
class Facts:
    """What a user should know about a data set before using it.

    Attributes:
      title: description of the data set in one line.
      homepage: address where it is described and offered.
      licence: note on the terms, as far as they could be checked.
      citation: reference that the authors ask for.
      archive: address of a zip or tar archive; empty if it must be fetched by hand.
      manual: what to fetch by hand, and which folders it must have when unpacked.
    """

    title: str
    homepage: str
    licence: str
    citation: str
    archive: str
    manual: str


class StoredImage(tfds.features.Image):
    """The bytes of a file, which decode to uint8 [H, W, 3].

    Gray is repeated, and the EXIF orientation is not applied. The decoder of
    `tfds.features.Image` would keep the low byte of 16-bit samples.
    """

    def decode_example_np(self, example: bytes) -> np.ndarray:
        """Decodes the bytes of a PNG, JPEG, BMP or TIFF file."""
        image = to_8_bit(decode(example)[0])
        return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


class PairBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder of records ``{ir, vis, name}``; a data set defines FACTS and `layout`.

    Pairs that cannot be used (a broken file, sizes that differ) and images without a
    partner are left out. ``info.metadata`` has a sentence for each: "known_flaws" for
    those named in KNOWN_FLAWS, which the published archive is known to have, and
    "left_out" for all others.
    """

    VERSION = tfds.core.Version("1.0.0")
    FACTS: Facts
    KNOWN_FLAWS: frozenset[str] = frozenset()

    def __init__(self, *, file_format: str = "array_record", **kwargs):
        """Like `tfds.core.DatasetBuilder`, but writes array_record by default."""
        super().__init__(file_format=file_format, **kwargs)

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """The text that tfds shows; without it, tfds refuses a manual folder."""
        return self.FACTS.manual

    def layout(self, root: Path) -> Layout:
        """The pairs of the data set that has been unpacked in `root`.

        Raises:
          LayoutMissing: the folder does not hold the data set.
        """
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.FACTS.title,
            features=tfds.features.FeaturesDict(
                {
                    "ir": StoredImage(),
                    "vis": StoredImage(),
                    "name": tfds.features.Text(),
                }
            ),
            homepage=self.FACTS.homepage or None,
            citation=self.FACTS.citation or None,
            license=self.FACTS.licence,
            metadata=tfds.core.MetadataDict(left_out=[], known_flaws=[]),
            # Keeps the records in the order of the names.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        found = self._find(dl_manager)
        self.info.metadata.update(left_out=list(found.problems), known_flaws=[])
        count = Counter(p.name for pairs in found.splits.values() for p in pairs)
        twice = [name for name, times in sorted(count.items()) if times > 1]
        if twice:
            raise UserError(
                f"Data set {self.name} holds several pairs named {listing(twice)}; "
                "unpack it into an empty folder."
            )
        return {
            split: self._generate_examples(split, sorted(pairs, key=lambda p: p.name))
            for split, pairs in found.splits.items()
        }

    def _find(self, dl_manager: tfds.download.DownloadManager) -> Layout:
        """The pairs in the manual folder if it has them, otherwise in the download."""
        try:
            manual = Path(dl_manager.manual_dir)
        except AssertionError:  # there is no such folder, or it is empty
            manual = None
        if manual:
            try:
                return self.layout(manual)
            except LayoutMissing as error:
                if not self.FACTS.archive:
                    raise
                print(f"{error} Downloading it instead.")
        if not self.FACTS.archive:
            raise UserError(
                f"Data set {self.name} must be fetched by hand, but --manual_dir does "
                f"not name a folder with files: {self.FACTS.manual}"
            )
        try:
            unpacked = _unpack(Path(dl_manager.download(self.FACTS.archive)))
        except Exception as error:
            # Errors of requests, the archive, the system and tfds; all of them mean
            # that there is no archive to continue with.
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            raise UserError(
                f"{self.FACTS.archive} could not be downloaded and unpacked "
                f"({kind}{str(error).strip().rstrip('.')}); fetch it by hand, unpack "
                "it and name the folder with --manual_dir."
            ) from error
        return self.layout(unpacked)

    def _generate_examples(self, split: str, pairs: list[Pair]) -> Iterator:
        written = 0
        reasons = []
        for pair in pairs:
            try:
                # Decoding all of it now finds what would stop a training run later.
                read_pair(pair)
            except UserError as error:
                reasons.append(str(error))
                known = pair.name in self.KNOWN_FLAWS
                notes = self.info.metadata["known_flaws" if known else "left_out"]
                notes.append(str(error))
                continue
            yield (
                pair.name,
                {"ir": str(pair.ir), "vis": str(pair.vis), "name": pair.name},
            )
            written += 1
        if not written:
            raise UserError(
                f"No pair of split '{split}' of {self.name} can be used: "
                f"{listing(reasons) or 'it has none.'}"
            )


def _unpack(archive: Path) -> Path:
    """Unpacks an archive beside itself, once; tfds's extraction needs TensorFlow.

    Raises:
      UserError: see `archives.unpack`.
    """
    folder = archive.with_name(archive.name + ".unpacked")
    if not folder.is_dir():
        partial = archive.with_name(archive.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        most_bytes = _ROOM + _EXPANSION * archive.stat().st_size
        try:
            archives.unpack(archive, partial, most_bytes, _MOST_FILES)
        except UserError:
            shutil.rmtree(partial, ignore_errors=True)
            # Otherwise the next run would consider it downloaded.
            archive.unlink()
            archive.with_name(archive.name + ".INFO").unlink(missing_ok=True)
            raise
        partial.rename(folder)
    return folder
