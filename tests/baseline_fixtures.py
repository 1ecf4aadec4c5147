"""Made state dicts of compared systems, and their networks in plain NumPy.

The networks are written from the papers, in the layout of PyTorch ([C, H, W], OIHW), so
that they share nothing with the JAX code but the names of the state dicts.
"""

import numpy as np
from scipy.signal import correlate2d
from scipy.special import expit, softmax

DIV2K = np.array([0.4488, 0.4371, 0.4040])[:, None, None]


class StateDict(dict):
    """Tensors of convolutions by name, drawn from a seed."""

    def __init__(self, seed):
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def add(self, name, outputs, inputs, size=3):
        shape = (outputs, inputs, size, size)
        weight = self.rng.normal(size=shape) / np.sqrt(inputs * size**2)
        self[f"{name}.weight"] = weight.astype(np.float32)
        bias = self.rng.uniform(-0.3, 0.3, outputs)
        self[f"{name}.bias"] = bias.astype(np.float32)


def conv(state, name, x, mode="constant"):
    """A convolution of [C, H, W] with a border of zeros, or as `np.pad` says."""
    weight = state[f"{name}.weight"].astype(np.float64)
    margin = weight.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)), mode=mode)
    planes = [
        sum(correlate2d(a, b, "valid") for a, b in zip(padded, kernel, strict=True))
        for kernel in weight
    ]
    return np.array(planes) + state[f"{name}.bias"][:, None, None]


def relu(x, slope=0.0):
    return np.where(x > 0, x, slope * x)


def pixel_shuffle(x, r):
    c, h, w = len(x) // r**2, *x.shape[1:]
    out = np.zeros((c, h * r, w * r))
    for k in range(len(x)):
        out[k // r**2, k % r**2 // r :: r, k % r :: r] = x[k]
    return out


# --- DenseFuse ----------------------------------------------------------------------


def densefuse_state(seed=0):
    state = StateDict(seed)
    state.add("conv1.conv2d", 16, 1)
    for i in range(3):
        state.add(f"DB1.denseblock.{i}.dense_conv.conv2d", 16, 16 * (i + 1))
    for i, (inputs, outputs) in enumerate([(64, 64), (64, 32), (32, 16), (16, 1)]):
        state.add(f"conv{i + 2}.conv2d", outputs, inputs)
    return dict(state)


def densefuse(state, ir, vis, rule):
    """[H, W] in [0, 1] to the same."""

    def encode(image):
        x = relu(conv(state, "conv1.conv2d", 255.0 * image[None], "reflect"))
        for i in range(3):
            name = f"DB1.denseblock.{i}.dense_conv.conv2d"
            x = np.concatenate([x, relu(conv(state, name, x, "reflect"))])
        return x

    a, b = encode(ir.astype(np.float64)), encode(vis.astype(np.float64))
    x = (a + b) / 2
    if rule == "l1":
        window = np.ones((3, 3)) / 9
        act_a, act_b = (correlate2d(np.abs(f).sum(0), window, "same") for f in (a, b))
        x = (act_a * a + act_b * b) / (act_a + act_b)
    for i in range(4):
        x = relu(conv(state, f"conv{i + 2}.conv2d", x, "reflect"))
    return x[0] / 255


# --- enlargements -------------------------------------------------------------------


def _ends(state, width, scale, channels):
    state.add("head.0", width, channels)
    for i, r in enumerate((2, 2) if scale == 4 else (scale,)):
        state.add(f"tail.0.{2 * i}", width * r * r, width)
    state.add("tail.1", channels, width)
    if channels == 3:
        for name, sign in (("sub_mean", -1), ("add_mean", 1)):
            state[f"{name}.weight"] = np.eye(3, dtype=np.float32)[:, :, None, None]
            state[f"{name}.bias"] = np.float32(sign * 255 * DIV2K[:, 0, 0])


def edsr_state(scale, blocks=2, width=8, channels=3, seed=0):
    state = StateDict(seed)
    _ends(state, width, scale, channels)
    for i in range(blocks):
        for layer in (0, 2):
            state.add(f"body.{i}.body.{layer}", width, width)
    state.add(f"body.{blocks}", width, width)
    return dict(state)


def rcan_state(scale, groups=2, blocks=3, width=8, reduction=4, channels=3, seed=0):
    state = StateDict(seed)
    _ends(state, width, scale, channels)
    for g in range(groups):
        for b in range(blocks):
            name = f"body.{g}.body.{b}.body"
            state.add(f"{name}.0", width, width)
            state.add(f"{name}.2", width, width)
            state.add(f"{name}.3.conv_du.0", width // reduction, width, 1)
            state.add(f"{name}.3.conv_du.2", width, width // reduction, 1)
        state.add(f"body.{g}.body.{blocks}", width, width)
    state.add(f"body.{groups}", width, width)
    return dict(state)


def enlarge(state, image, scale, body, channels=3):
    """EDSR and RCAN around their bodies: [H, W] in [0, 1] to [channels, H', W']."""
    mean = DIV2K[:channels]
    head = conv(state, "head.0", 255.0 * (image[None].astype(np.float64) - mean))
    x = body(state, head) + head
    for i, r in enumerate((2, 2) if scale == 4 else (scale,)):
        x = pixel_shuffle(conv(state, f"tail.0.{2 * i}", x), r)
    return conv(state, "tail.1", x) / 255 + mean


def edsr_body(state, x, residual_scale=1.0):
    i = 0
    while f"body.{i}.body.0.weight" in state:
        y = relu(conv(state, f"body.{i}.body.0", x))
        x = x + residual_scale * conv(state, f"body.{i}.body.2", y)
        i += 1
    return conv(state, f"body.{i}", x)


def rcan_body(state, x):
    g = 0
    while f"body.{g}.body.0.body.0.weight" in state:
        y, b = x, 0
        while f"body.{g}.body.{b}.body.0.weight" in state:
            name = f"body.{g}.body.{b}.body"
            z = conv(state, f"{name}.2", relu(conv(state, f"{name}.0", y)))
            gate = relu(
                conv(state, f"{name}.3.conv_du.0", z.mean((1, 2))[:, None, None])
            )
            y = y + z * expit(conv(state, f"{name}.3.conv_du.2", gate))
            b += 1
        x = x + conv(state, f"body.{g}.body.{b}", y)
        g += 1
    return conv(state, f"body.{g}", x)


def imdn_state(scale, channels=3, seed=0):
    state = StateDict(seed)
    state.add("fea_conv", 64, channels)
    for i in range(6):
        name = f"IMDB{i + 1}"
        for layer, (outputs, inputs) in enumerate(
            [(64, 64), (64, 48), (64, 48), (16, 48)]
        ):
            state.add(f"{name}.c{layer + 1}", outputs, inputs)
        state.add(f"{name}.cca.conv_du.0", 4, 64, 1)
        state.add(f"{name}.cca.conv_du.2", 64, 4, 1)
        state.add(f"{name}.c5", 64, 64, 1)
    state.add("c.0", 64, 384, 1)
    state.add("LR_conv", 64, 64)
    state.add("upsampler.0", channels * scale**2, 64)
    return dict(state)


def imdn(state, image, scale, channels=3):
    """[H, W] in [0, 1] to [channels, H', W']."""
    x = head = conv(state, "fea_conv", np.repeat(image[None], channels, 0))
    outputs = []
    for i in range(6):
        name, rest, parts = f"IMDB{i + 1}", x, []
        for layer in (1, 2, 3):
            y = relu(conv(state, f"{name}.c{layer}", rest), 0.05)
            parts.append(y[:16])
            rest = y[16:]
        y = np.concatenate([*parts, conv(state, f"{name}.c4", rest)])
        contrast = (y.mean((1, 2)) + y.std((1, 2)))[:, None, None]
        gate = relu(conv(state, f"{name}.cca.conv_du.0", contrast))
        y = y * expit(conv(state, f"{name}.cca.conv_du.2", gate))
        x = x + conv(state, f"{name}.c5", y)
        outputs.append(x)
    x = relu(conv(state, "c.0", np.concatenate(outputs)), 0.05)
    x = conv(state, "LR_conv", x) + head
    return pixel_shuffle(conv(state, "upsampler.0", x), scale)


# --- CNN fusion ---------------------------------------------------------------------


def cnn_arrays(seed=0):
    """The arrays of the MATLAB file; kernels lie column by column."""
    rng = np.random.default_rng(seed)
    arrays = {"weights_b1_1": rng.normal(size=(9, 64)) / 3}
    sizes = {2: (64, 128), 3: (128, 256)}
    for i, (inputs, outputs) in sizes.items():
        kernel = rng.normal(size=(inputs, 9, outputs)) / np.sqrt(9 * inputs)
        arrays[f"weights_b1_{i}"] = kernel
    # Strong enough that no patch is undecided.
    arrays["weights_output"] = rng.normal(size=(512, 64, 2)) / 100
    for i, outputs in enumerate((64, 128, 256)):
        arrays[f"biases_b1_{i + 1}"] = rng.uniform(-0.2, 0.2, (outputs, 1))
    arrays["biases_output"] = np.full((2, 1), 5.0)  # which the program does not add
    return {name: x.astype(np.float32) for name, x in arrays.items()}


def cnn_patches(arrays, ir, vis):
    """The infrared share of each patch, [H', W']."""

    def kernel(vector):
        side = int(np.sqrt(len(vector)))
        return vector.astype(np.float64).reshape(side, side, order="F")

    def layer(x, name, bias):
        weights = arrays[name]
        weights = weights[None] if weights.ndim == 2 else weights
        margin = [(0, 0), (1, 1), (1, 1)]
        x = np.pad(x, margin)
        planes = [
            sum(
                correlate2d(x[i], kernel(weights[i, :, o]), "valid")
                for i in range(len(x))
            )
            for o in range(weights.shape[-1])
        ]
        return relu(np.array(planes) + arrays[bias][:, :, None])

    def branch(image):
        x = layer(image[None].astype(np.float64), "weights_b1_1", "biases_b1_1")
        x = layer(x, "weights_b1_2", "biases_b1_2")
        h, w = x.shape[1:]
        x = np.pad(x, [(0, 0), (0, h % 2), (0, w % 2)])
        x = x.reshape(len(x), (h + 1) // 2, 2, (w + 1) // 2, 2).max((2, 4))
        return layer(x, "weights_b1_3", "biases_b1_3")

    x = np.concatenate([branch(ir), branch(vis)])
    last = arrays["weights_output"]
    scores = [
        sum(correlate2d(x[i], kernel(last[i, :, o]), "valid") for i in range(512))
        for o in range(2)
    ]
    return softmax(scores, 0)[1]
