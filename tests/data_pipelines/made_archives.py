"""Made files in the layout of each real archive; the names are the archives' own."""

from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

# Folder, thermal, visible and other files of every scene of the TNO archive.
TNO_SCENES = """
tank                                LWIR.tif                Vis.tif
Athena_images/2_men_in_front_of_house IR_meting003_g.bmp    VIS_meting003_r.bmp
Athena_images/airplane_in_trees     ir.bmp                  vis.bmp
Athena_images/APC_1/view_1          IR_fk_06_005.bmp        VIS_fk_06_005.bmp
Athena_images/APC_1/view_2          IR_fk_ref_01_005.bmp    VIS_fk_ref_01_005.bmp
Athena_images/APC_1/view_3          IR_fk_ref_02_005.bmp    VIS_fk_ref_02_005.bmp
Athena_images/APC_2/view_1          2_fk_ge_03_005.bmp      1_fk_ge_03_005.bmp
Athena_images/APC_2/view_2          2_fk_ge_04_005.bmp      1_fk_ge_04_005.bmp
Athena_images/APC_2/view_3          2_fk_ge_06_005.bmp      1_fk_ge_06_005.bmp
Athena_images/APC_3/view_1          IR_fk_bar_06_005.bmp    VIS_fk_bar_06_005.bmp
Athena_images/APC_3/view_2          IR_fk_NL_01_005.bmp     VIS_fk_NL_01_005.bmp
Athena_images/APC_3/view_3          IR_fk_NL_05_005.bmp     VIS_fk_NL_05_005.bmp
Athena_images/APC_4                 IR_fennek01_005.bmp     VIS_fennek01_005.bmp
Athena_images/bunker                IR_bunker_g.bmp         bunker_r.bmp
Athena_images/heather               IR_hei_vis_g.bmp        VIS_hei_vis_r.bmp
Athena_images/helicopter            IR_helib_011.bmp        VIS_helib_011.bmp
Athena_images/lake                  IR_lake_g.bmp           VIS_lake_r.bmp
Athena_images/man_in_doorway        IR_maninhuis_g.bmp      VIS_maninhuis_r.bmp
Athena_images/soldier_behind_smoke_1 IR_meting012-1200_g.bmp VIS_meting012-1200_r.bmp
Athena_images/soldier_behind_smoke_2 IR_meting012-1500_g.bmp VIS_meting012-1500_r.bmp
Athena_images/soldier_behind_smoke_3 IR_meting012-1700_g.bmp VIS_meting012-1700_r.bmp
Athena_images/soldier_in_trench_1   IR_meting016_g.bmp      VIS_meting016_r.bmp
Athena_images/soldier_in_trench_2   IR_meting055_g.bmp      VIS_meting055_r.bmp
Triclobs_images/Balls               -                       VIS.bmp     NIR.bmp
Triclobs_images/barbed_wire_1       B_LWIR.tif              R_Vis.tif   G_NIR.tif
Triclobs_images/barbed_wire_2 c_LWIR-MarnehNew_24RGB_1110.tif a_VIS-MarnehNew_24RGB_1110.tif b_NIR-MarnehNew_24RGB_1110.tif
Triclobs_images/Bosnia              LWIR_B.bmp              VIS_R.bmp   NIR_G.bmp
Triclobs_images/Farm                Farm_IR.bmp             Farm_Vis.bmp Farm_II.bmp
Triclobs_images/House               -                       VIS.bmp     NIR.bmp
Triclobs_images/houses_with_3_men   LWIR.bmp                VIS.bmp     NIR.bmp
Triclobs_images/jeep_in_smoke       LWIR_B.bmp              VIS_R.bmp   NIR_G.bmp
Triclobs_images/Kaptein_01          IR01.bmp                Vis01.bmp   NIR01.bmp
Triclobs_images/Kaptein_19          IR19.bmp                Vis19.bmp   NIR19.bmp
Triclobs_images/pancake_house       -                       VIS.tif     NIR.tif
Triclobs_images/soldier_behind_smoke LWIR-MarnehNew_15RGB_603.tif VIS-MarnehNew_15RGB_603.tif RGB-MarnehNew_15RGB_603.tif
Triclobs_images/soldiers_with_jeep  Jeep_IR.bmp             Jeep_Vis.bmp Jeep_II.bmp
Triclobs_images/square_with_houses  LWIR.bmp                VIS.bmp     NIR.bmp
Triclobs_images/Veluwe              -                       VIS.bmp     NIR.bmp
Triclobs_images/Vlasakkers          -                       VIS.tif     NIR.tif
DHV_images/bench                    IR_37rad.bmp            VIS_37dhvR.bmp NIR_37dhvG.bmp
DHV_images/sandpath                 IR_18rad.bmp            VIS_18dhvR.bmp NIR_18dhvG.bmp
DHV_images/wall                     IR_163rad.bmp           VIS_163dhvR.BMP NIR_163dhvG.BMP
"""  # noqa: E501
TRICLOBS_FRAMES = (
    *("Kaptein_1123", "Kaptein_1654", "Reek"),
    *(f"Marne_{number:02d}" for number in (1, 2, 3, 4, 6, 7, 9, 11, 15, 24)),
    *(f"Movie_{number:02d}" for number in (1, 12, 14, 18, 24)),
)
TNO_SEQUENCES = """
DHV_images/Fire_sequence/part_1 thermal/RAD{}.bmp dhv/DHV{}.bmp 2 30
DHV_images/Fire_sequence/part_2 rad/RADheli{}.bmp dhv/DHVheli{}.bmp 0 17
DHV_images/Fire_sequence/part_3 rad/RADheli{}.bmp dhv/DHVheli{}.bmp 20 81
FEL_images/Duine_sequence thermal/{}i.bmp visual/{}v.bmp 7400 7423
FEL_images/Nato_camp_sequence thermal/{}i.bmp visual/{}v.bmp 1800 1832
FEL_images/Tree_sequence thermal/{}i.bmp visual/{}v.bmp 4900 4919
"""

# --- made archives: each returns {split: {name: (ir file, vis file)}} ---------------


def image(path: Path, size=(8, 6), mode="L") -> Path:
    """A small image whose content depends on its path, so no two are equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(str(path).encode()))
    shape = size[::-1] if mode == "L" else (*size[::-1], 3)
    pixels = rng.integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def pair(ir: Path, vis: Path) -> tuple[Path, Path]:
    return image(ir), image(vis, mode="RGB")


def make_tno(root: Path):
    base = root / "TNO_Image_Fusion_Dataset" / "TNO_Image_Fusion_Dataset"
    lines = [line.split() for line in TNO_SCENES.strip().splitlines()]
    for frame in TRICLOBS_FRAMES:
        files = [f"{frame}_{kind}.bmp" for kind in ("IR", "Vis", "II")]
        lines.append([f"Triclobs_images/{frame}", *files])
    scenes, frames = {}, {}
    for folder, ir, vis, *others in lines:
        name = folder.replace("_images", "").replace("/", "_")
        for other in others:
            image(base / folder / other)
        if ir == "-":
            image(base / folder / vis)
        else:
            scenes[name] = pair(base / folder / ir, base / folder / vis)
    for line in TNO_SEQUENCES.strip().splitlines():
        folder, ir, vis, first, stop = line.split()
        name = folder.replace("_images", "").replace("/", "_")
        for i in range(int(first), int(stop)):
            frames[f"{name}_{i:04d}"] = pair(
                base / folder / ir.format(i), base / folder / vis.format(i)
            )
    (base / "README.txt").write_text("TNO", encoding="utf-8")
    return {"test": scenes, "sequences": frames}


def make_roadscene(root: Path):
    base = root / "RoadScene-ab71420f8fc96396eeb97eecf3694909b3feb656"
    image(base / "crop_HR_visible" / "FLIR_00006.jpg", (16, 12), "RGB")
    return {
        "train": {
            stem: pair(
                base / "cropinfrared" / f"{stem}.jpg",
                base / "crop_LR_visible" / f"{stem}.jpg",
            )
            for stem in ("FLIR_00006", "FLIR_00018", "FLIR_video_04215")
        }
    }


def make_msrs(root: Path):
    base = root / "MSRS-main"
    stems = {"train": ("00001D", "00002D", "00003N"), "test": ("00004N",)}
    for split in stems:
        image(base / split / "Segmentation_labels" / "00001D.png")
    image(base / "detection" / "ir" / "1.png")
    return {
        split: {
            stem: pair(
                base / split / "ir" / f"{stem}.png", base / split / "vi" / f"{stem}.png"
            )
            for stem in names
        }
        for split, names in stems.items()
    }


def make_llvip(root: Path):
    base = root / "LLVIP"
    stems = {"train": ("010001", "010002"), "test": ("190001",)}
    (base / "Annotations").mkdir(parents=True)
    return {
        split: {
            stem: pair(
                base / "infrared" / split / f"{stem}.jpg",
                base / "visible" / split / f"{stem}.jpg",
            )
            for stem in names
        }
        for split, names in stems.items()
    }


def make_m3fd(root: Path):
    made = {}
    for split, folder in (("train", "M3FD_Detection"), ("test", "M3FD_Fusion")):
        base = root / folder
        (base / "Annotation").mkdir(parents=True)
        made[split] = {
            f"{folder}_{stem}": pair(
                base / "Ir" / f"{stem}.png", base / "Vis" / f"{stem}.png"
            )
            for stem in ("00000", "00001")
        }
    return made


def make_flir(root: Path):
    base = root / "align"
    made = {}
    for split, stems in (
        ("train", ("FLIR_00002", "FLIR_00013")),
        ("validation", ("FLIR_08864",)),
    ):
        made[split] = {
            stem: pair(
                base / "JPEGImages" / f"{stem}_PreviewData.jpeg",
                base / "JPEGImages" / f"{stem}_RGB.jpg",
            )
            for stem in stems
        }
        text = "\n".join(f"{stem}_PreviewData" for stem in stems)
        (base / f"align_{split}.txt").write_text(text + "\n", encoding="utf-8")
    # An image that neither list names is no part of the data set.
    image(base / "JPEGImages" / "FLIR_00003_RGB.jpg")
    return made


def make_kaist(root: Path):
    made = {"train": {}, "test": {}}
    for split, number in (("train", "set00"), ("train", "set05"), ("test", "set06")):
        folder = root / "images" / number / "V000"
        for stem in ("I00000", "I00001"):
            made[split][f"{number}_V000_{stem}"] = pair(
                folder / "lwir" / f"{stem}.jpg", folder / "visible" / f"{stem}.jpg"
            )
    return made


def make_vlirvdif(root: Path):
    """Two videos; the file chooses two frames of one and one of the other."""
    base, made = root / "VLIRVDIF", {}
    for video in ("Camouflage", "Hall"):
        for number in (1, 12, 13):
            made[f"{video}_{number:04d}"] = pair(
                base / video / "IR" / f"IR_{number}.png",
                base / video / "VIS" / f"VIS_{number}.png",
            )
    chosen = ("Hall_0012", "Camouflage_0001", "Camouflage_0013")
    (base / "test.txt").write_text("\n".join(chosen), encoding="utf-8")
    return {"test": {name: made[name] for name in chosen}}


def make_pairs(root: Path):
    return {
        "train": {
            "a": pair(root / "ir" / "a.png", root / "vis" / "a.jpg"),
            "b": pair(root / "ir" / "b.tif", root / "vis" / "b.bmp"),
        }
    }


MAKERS = {
    "tno": make_tno,
    "roadscene": make_roadscene,
    "msrs": make_msrs,
    "llvip": make_llvip,
    "m3fd": make_m3fd,
    "flir_adas": make_flir,
    "kaist": make_kaist,
    "vlirvdif": make_vlirvdif,
    "pairs": make_pairs,
}


def check_records(builder, made) -> None:
    """Reading gives the files' own bytes, and the pixels that Pillow sees in them."""
    assert set(builder.info.splits) == set(made)
    raw = {side: tfds.decode.SkipDecoding() for side in ("ir", "vis")}
    for split, expected in made.items():
        stored = list(builder.as_data_source(split, decoders=raw))
        names = [record["name"].decode() for record in stored]
        assert names == sorted(expected)
        for name, record in zip(names, stored, strict=True):
            ir, vis = expected[name]
            assert record["ir"] == ir.read_bytes()
            assert record["vis"] == vis.read_bytes()
        first = builder.as_data_source(split)[0]
        for side, file in zip(("ir", "vis"), expected[names[0]], strict=True):
            with Image.open(file) as opened:
                np.testing.assert_array_equal(first[side], opened.convert("RGB"))
