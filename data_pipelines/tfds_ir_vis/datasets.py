"""The data sets: their addresses, contents and the layouts of their archives.

Addresses, counts and terms are those of docs/data.md, which also says what could not be
checked.
"""

import dataclasses
from pathlib import Path

import tensorflow_datasets as tfds

from data_pipelines.tfds_ir_vis import layouts
from data_pipelines.tfds_ir_vis.base import Facts, PairBuilder
from data_pipelines.tfds_ir_vis.layouts import Layout
from hkdnet_jax.common.pair_files import match_folders

_GITHUB = "https://github.com"


class Tno(PairBuilder):
    """TNO: 55 military night scenes (test) and 180 video frames (sequences)."""

    name = "tno"
    FACTS = Facts(
        title="TNO Image Fusion Dataset: thermal and visible images of military "
        "scenes, mostly at night, from four camera systems.",
        homepage="https://figshare.com/articles/dataset/TNO_Image_Fusion_Dataset/1008029",
        licence="Free for research; publications credit TNO, Soesterberg, and cite the "
        "record (its README). See the record for the licence it names.",
        citation="A. Toet, The TNO Multiband Image Data Collection, Data in Brief 15, "
        "2017; data: doi:10.6084/m9.figshare.1008029",
        archive="https://figshare.com/ndownloader/files/1475454",
        manual="unpack the archive of figshare record 1008029, which holds "
        "Athena_images/, DHV_images/, FEL_images/ and Triclobs_images/.",
    )
    # Their IR and visible images differ in size.
    KNOWN_FLAWS = frozenset({"Triclobs_Marne_15", "Triclobs_Movie_24"})

    def layout(self, root: Path) -> Layout:
        """See `layouts.tno`."""
        return layouts.tno(root)


class RoadScene(PairBuilder):
    """RoadScene: 221 registered road scenes."""

    name = "roadscene"
    FACTS = Facts(
        title="RoadScene: registered road scenes cut from FLIR video.",
        homepage=f"{_GITHUB}/hanna-xu/RoadScene",
        licence="No licence file is known; the README asks to cite the paper. The "
        "frames come from FLIR video, whose terms apply too. Treat as research only.",
        citation="H. Xu, J. Ma, Z. Le, J. Jiang, X. Guo, FusionDN: A Unified Densely "
        "Connected Network for Image Fusion, AAAI 2020",
        archive=f"{_GITHUB}/hanna-xu/RoadScene/archive/"
        "ab71420f8fc96396eeb97eecf3694909b3feb656.zip",
        manual="clone the repository, which holds cropinfrared/ and crop_LR_visible/.",
    )

    def layout(self, root: Path) -> Layout:
        """One split, with visible images of the same size as the infrared ones."""
        return layouts.two_folders(root, {"train": ("cropinfrared", "crop_LR_visible")})


class Msrs(PairBuilder):
    """MSRS: 1083 training and 361 test pairs of 640x480."""

    name = "msrs"
    FACTS = Facts(
        title="MSRS: registered road scenes by day and night, made from MFNet.",
        homepage=f"{_GITHUB}/Linfeng-Tang/MSRS",
        licence="The README names no licence and asks to cite the paper; the images "
        "come from MFNet, whose terms apply too. Treat as research only.",
        citation="L. Tang, J. Yuan, H. Zhang, X. Jiang, J. Ma, PIAFusion: A "
        "progressive infrared and visible image fusion network based on illumination "
        "aware, Information Fusion, 2022",
        archive=f"{_GITHUB}/Linfeng-Tang/MSRS/archive/"
        "5fa66e33c5ba875eec4de4f5a5bf609bdcc566c5.zip",
        manual="clone the repository, which holds train/ir, train/vi, test/ir and "
        "test/vi.",
    )

    def layout(self, root: Path) -> Layout:
        """The repository's own splits."""
        return layouts.two_folders(
            root,
            {"train": ("train/ir", "train/vi"), "test": ("test/ir", "test/vi")},
        )


class Llvip(PairBuilder):
    """LLVIP: 15488 pairs of 1280x1024, mostly at night."""

    name = "llvip"
    FACTS = Facts(
        title="LLVIP: registered street scenes, 24 of the 26 places in the dark.",
        homepage="https://bupt-ai-cz.github.io/LLVIP/",
        licence="Non-commercial use only; cite LLVIP; no identification of persons "
        "(the repository's terms of use).",
        citation="X. Jia, C. Zhu, M. Li, W. Tang, W. Zhou, LLVIP: A Visible-infrared "
        "Paired Dataset for Low-light Vision, ICCV 2021",
        archive="",
        manual="agree to the terms at https://bupt-ai-cz.github.io/LLVIP/, fetch the "
        "registered data set (LLVIP.zip) and unpack it, so that infrared/train, "
        "infrared/test, visible/train and visible/test are there.",
    )

    def layout(self, root: Path) -> Layout:
        """The data set's own splits."""
        return layouts.two_folders(
            root,
            {
                "train": ("infrared/train", "visible/train"),
                "test": ("infrared/test", "visible/test"),
            },
        )


class M3fd(PairBuilder):
    """M3FD: 4200 pairs (train) and 300 of other scenes (test), mostly 1024x768."""

    name = "m3fd"
    FACTS = Facts(
        title="M3FD: registered campus, road and seaside scenes by day and night.",
        homepage=f"{_GITHUB}/JinyuanLiu-CV/TarDAL",
        licence="The README names no licence for the images and asks to cite the "
        "paper. Treat as research only.",
        citation="J. Liu et al., Target-aware Dual Adversarial Learning and a "
        "Multi-scenario Multi-Modality Benchmark to Fuse Infrared and Visible for "
        "Object Detection, CVPR 2022",
        archive="",
        manual="fetch M3FD_Detection.zip or M3FD_Fusion.zip or both (links in the "
        "README of https://github.com/JinyuanLiu-CV/TarDAL) and unpack each into a "
        "folder of its name, so that M3FD_Detection/Ir, M3FD_Detection/Vis, "
        "M3FD_Fusion/Ir and M3FD_Fusion/Vis are there.",
    )

    def layout(self, root: Path) -> Layout:
        """See `layouts.m3fd`."""
        return layouts.m3fd(root)


class Vlirvdif(PairBuilder):
    """VLIRVDIF: registered video frames, the paper's second test set."""

    name = "vlirvdif"
    FACTS = Facts(
        title="VLIRVDIF: visible-light and infrared video for information fusion.",
        homepage="",
        licence="Not known here; read the terms where you fetch it. Treat as research "
        "only.",
        citation="A. Ellmauthaler et al., A visible-light and infrared video database "
        "for performance evaluation of video/image fusion methods, Multidimensional "
        "Systems and Signal Processing, 2019 (not checked here)",
        archive="",
        manual="fetch the registered frames from their authors and unpack them, so "
        "that folders like VIDEO/IR and VIDEO/VIS are there; a file test.txt beside "
        "them may choose frames (VIDEO_0012, one per line).",
    )

    def layout(self, root: Path) -> Layout:
        """See `layouts.vlirvdif`."""
        return layouts.vlirvdif(root)


class FlirAdas(PairBuilder):
    """FLIR ADAS, in the aligned release."""

    name = "flir_adas"
    FACTS = Facts(
        title="FLIR ADAS: road scenes of a thermal and a colour camera on a car, in "
        "the release that H. Zhang et al. aligned.",
        homepage="https://www.flir.com/oem/adas/adas-dataset-form/",
        licence="FLIR's own terms, agreed to in the form at the homepage; read them "
        "there.",
        citation="H. Zhang et al., Multispectral Fusion for Object Detection with "
        "Cyclic Fuse-and-Refine Blocks, ICIP 2020, arXiv:2009.12664",
        archive="",
        manual="agree to FLIR's terms at "
        "https://www.flir.com/oem/adas/adas-dataset-form/, fetch the release that "
        "arXiv:2009.12664 aligned and unpack it, so that JPEGImages/, align_train.txt "
        "and align_validation.txt are there.",
    )

    def layout(self, root: Path) -> Layout:
        """See `layouts.flir_aligned`."""
        return layouts.flir_aligned(root)


class Kaist(PairBuilder):
    """KAIST: video from a car by day and night; sets 00-05 train, 06-11 test."""

    name = "kaist"
    FACTS = Facts(
        title="KAIST Multispectral Pedestrian: video frames from a car by day and "
        "night.",
        homepage=f"{_GITHUB}/SoonminHwang/rgbt-ped-detection",
        licence="CC BY-NC-SA 4.0 (LICENSE.md of the repository): non-commercial.",
        citation="S. Hwang, J. Park, N. Kim, Y. Choi, I. S. Kweon, Multispectral "
        "Pedestrian Detection: Benchmark Dataset and Baselines, CVPR 2015",
        archive="",
        manual="fetch the sets you want (data/README.md of "
        "https://github.com/SoonminHwang/rgbt-ped-detection) and unpack them, so that "
        "folders like images/set00/V000/lwir and images/set00/V000/visible are there.",
    )

    def layout(self, root: Path) -> Layout:
        """See `layouts.kaist`."""
        return layouts.kaist(root)


@dataclasses.dataclass
class FolderConfig(tfds.core.BuilderConfig):
    """Two folders of images with the same stems.

    Attributes:
      ir: folder of the infrared images.
      vis: folder of the visible images.
    """

    ir: str = ""
    vis: str = ""


class Pairs(PairBuilder):
    """Any two folders: those of a `FolderConfig`, or ir/ and vis/ in the manual folder.

    One of the two is required; nothing is downloaded.
    """

    name = "pairs"
    FACTS = Facts(
        title="Own pairs: two folders of images with the same stems.",
        homepage="",
        licence="Yours: the images come from your own folders.",
        citation="",
        archive="",
        manual="give a folder that holds ir/ and vis/ with images of the same stems.",
    )

    def _find(self, dl_manager: tfds.download.DownloadManager) -> Layout:
        config = self.builder_config
        if not isinstance(config, FolderConfig):
            return super()._find(dl_manager)
        pairs, problems = match_folders(config.ir, config.vis)
        return Layout({"train": pairs}, problems)

    def layout(self, root: Path) -> Layout:
        """One split with all pairs."""
        return layouts.two_folders(root, {"train": ("ir", "vis")})
