"""Pure validation steps: they score a network's pictures; `training.run` jits them."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from hkdnet_jax.common.arrays import to_float, to_uint8
from hkdnet_jax.losses import quality
from hkdnet_jax.losses.vivid import vivid_target
from hkdnet_jax.models.presets import SCALES
from hkdnet_jax.models.student import Student
from hkdnet_jax.models.teacher import Teacher, for_reduced
from hkdnet_jax.training import views
from hkdnet_jax.training.networks import build_student, build_teacher
from hkdnet_jax.training.state import Params
from hkdnet_jax.training.steps import (
    Batch,
    Scalars,
    adapt,
    feature_suffix,
    features_to_add,
    step_key,
)
from hkdnet_jax.training.views import View

# (params, frozen parameters, batch)
#   -> (sums over the batch, pictures by name, each uint8 [N, H, W, 1])
ValStep = Callable[[Params, Params, Batch], tuple[Scalars, dict[str, jax.Array]]]
# In the order in which they are drawn, left to right.
PICTURES = ("ir", "vis", "bicubic", "fused", "label")


def sums(mask: jax.Array, values: Scalars) -> Scalars:
    """Sums of per-image values over the images without fillers, and their count."""
    totals = {name: jnp.sum(mask * value) for name, value in values.items()}
    return totals | {"count": jnp.sum(mask)}


def image_quality(name: str, image: jax.Array, target: jax.Array) -> Scalars:
    """PSNR in dB and SSIM of each image, [N], by names that end in `name`."""
    return {
        f"psnr{name}": quality.psnr(image, target),
        f"ssim{name}": quality.ssim(image, target),
    }


def alive(*features: jax.Array) -> jax.Array:
    """The share of channels that are not 0 everywhere in a picture, [N] float32.

    Args:
      features: outputs of one ReLU layer, [N, H, W, C] each; a channel is alive if it
        is not 0 everywhere in all of them.
    """
    fires = [jnp.any(x > 0, axis=(1, 2)) for x in features]
    return jnp.mean(jnp.any(jnp.stack(fires), axis=0), axis=-1)


def _alive_in_teacher(out: Mapping[str, jax.Array]) -> Scalars:
    """The share of live channels in each layer of the teacher, by its name."""
    layers = zip(
        *(jnp.split(out[name], 4, axis=-1) for name in ("encoder_ir", "encoder_vis")),
        strict=True,
    )
    shares = {f"alive_encoder{i}": alive(*pair) for i, pair in enumerate(layers, 1)}
    for name in ("decoder1", "decoder2", "decoder3"):
        shares[f"alive_{name}"] = alive(out[name])
    return shares


def teacher_val_step(config: ConfigDict) -> ValStep:
    """The step that measures how well the teacher does what it learns.

    `psnr`, `ssim`: for a vivid teacher PSNR in dB and SSIM of its picture against
    `vivid_target`; otherwise those of the reconstructions, means over IR and VIS.

    `psnr_ir`, `ssim_ir`, `psnr_vis`, `ssim_vis`: PSNR in dB and SSIM of the
    reconstructions.
    `alive_encoder1` to `alive_encoder4`, `alive_decoder1` to `alive_decoder3`: for each
    ReLU layer, the share of channels that are not 0 everywhere while the pair is fused.
    The pictures are IR, VIS, fused and, for a vivid teacher, the target as label.
    """
    model = build_teacher(config)

    def step_fn(params: Params, frozen: Params, batch: Batch):
        ir, vis = to_float(batch["ir"]), to_float(batch["vis"])
        values = {}
        for name, image in (("_ir", ir), ("_vis", vis)):
            output, _ = model.apply({"params": params}, image, image)
            values |= image_quality(name, jnp.clip(output, 0.0, 1.0), image)
        fused, out = model.apply({"params": params}, ir, vis)
        values |= _alive_in_teacher(out)
        pictures = {"ir": ir, "vis": vis, "fused": fused}
        if config.teacher.style == "vivid":
            pictures["label"] = vivid_target(ir, vis)
            fused = jnp.clip(fused, 0.0, 1.0)
            values |= image_quality("", fused, pictures["label"])
        else:
            values["psnr"] = 0.5 * (values["psnr_ir"] + values["psnr_vis"])
            values["ssim"] = 0.5 * (values["ssim_ir"] + values["ssim_vis"])
        return sums(batch["mask"], values), jax.tree.map(to_uint8, pictures)

    return step_fn


def student_val_step(config: ConfigDict, teacher: Teacher) -> ValStep:
    """The step that compares the student with its teacher's high-resolution label.

    Its input is degraded as in training (`data.degradation`).
    `psnr`, `ssim`: PSNR in dB and SSIM of the student's image; `psnr_bicubic`,
    `ssim_bicubic`: those of the alternative without a student, in which the teacher
    (`for_reduced`) fuses the low-resolution pair and bicubic interpolation enlarges the
    result.
    `loss_fusion`, `loss_image`, `loss_feature`: the terms of Eq. 22 and 23, the last
    one only if `loss.phi` is not 0, and none divided by deviations.
    `alive`: the share of F_f^s's channels that are not 0 everywhere in the image; at 0,
    nothing reaches the super-resolution part.
    A student with a continuous upsampler is judged at each whole scale: these values
    are means over them, and `psnr_x2`, `psnr_x3` and `psnr_x4` stand beside them.
    The pictures are IR, VIS, bicubic, fused (the student's) and label (the teacher's),
    at `config.scale`.
    """
    student = build_student(config)

    def step_fn(params: Params, frozen: Params, batch: Batch):
        pair = to_float(batch["ir"]), to_float(batch["vis"])
        # Every validation sees the same noise, so that their scores can be compared.
        key = step_key(config, 0, stream=3)
        if views.is_continuous(config):
            judged = {
                scale: _judge(
                    config,
                    (teacher, frozen),
                    (student.clone(scale=scale), params),
                    views.whole_view(config, key, pair, scale),
                )
                for scale in SCALES[1:]
            }
            each = [values for values, _ in judged.values()]
            values = {k: sum(v[k] for v in each) / len(each) for k in each[0]}
            values |= {f"psnr_x{k}": v["psnr"] for k, (v, _) in judged.items()}
            pictures = judged[config.scale][1]
        else:
            seen = views.whole_view(config, key, pair, config.scale)
            networks = (teacher, frozen), (student, params)
            values, pictures = _judge(config, *networks, seen)
        return sums(batch["mask"], values), jax.tree.map(to_uint8, pictures)

    return step_fn


def _judge(
    config: ConfigDict,
    teacher: tuple[Teacher, Params],
    student: tuple[Student, Params],
    seen: View,
) -> tuple[Scalars, dict[str, jax.Array]]:
    """Values and pictures of `student_val_step` of a view; networks with parameters."""
    suffix = feature_suffix(config)
    (network, params), (teacher, frozen) = student, teacher
    label, high = teacher.apply({"params": frozen}, *seen.high)
    small_teacher = for_reduced(teacher, seen.scale)
    low_fused, _ = small_teacher.apply({"params": frozen}, *seen.taken)
    _, low_label = small_teacher.apply({"params": frozen}, *seen.clean)
    own = {k: params[k] for k in ("fusion", "sr")}
    image, out = network.apply({"params": own}, *seen.taken)
    bicubic = jnp.clip(seen.enlarge(low_fused), 0.0, 1.0)
    target = jnp.clip(label, 0.0, 1.0)

    def distance(a: jax.Array, b: jax.Array) -> jax.Array:
        difference = jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32))
        return jnp.mean(difference, axis=(1, 2, 3))

    values = {
        **image_quality("", jnp.clip(image, 0.0, 1.0), target),
        **image_quality("_bicubic", bicubic, target),
        "loss_fusion": distance(
            out[f"decoded{suffix}"],
            config.loss.fused_scale * low_label[f"decoder3{suffix}"],
        ),
        "loss_image": distance(image, label),
        "alive": alive(out["decoded"]),
    }
    if config.loss.phi:
        features_t = features_to_add(config, high, low_label, seen)
        features_s = [out["tail"], adapt(config, params, out["upsampled"])]
        values["loss_feature"] = sum(map(distance, features_t, features_s))
    drawn = (*seen.high, bicubic, image, label)
    return values, dict(zip(PICTURES, drawn, strict=True))
