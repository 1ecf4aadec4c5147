"""The networks' equations in plain float64 NumPy, for tests only.

Written from the paper, not from the JAX code: loops over images and
channels, SciPy's `correlate2d` for convolutions, whole affinity matrices.  Arrays are
[N, H, W, C]; parameters are the nested dicts of the JAX modules, so that the names are
all the two share.
"""

import numpy as np
from scipy.signal import correlate2d
from scipy.special import expit, softmax

Params = dict


def random_params(shapes, seed: int) -> Params:
    """Fills a tree of shapes so that no term of an equation is zero or vanishing.

    Kernels keep the size of their input's signal, everything else (biases and the
    scales that are learned from zero) is drawn from 0.2 to 0.6 with a random sign.
    """
    rng = np.random.default_rng(seed)

    def fill(tree, name=""):
        if hasattr(tree, "items"):
            return {key: fill(tree[key], key) for key in sorted(tree)}
        if name == "kernel":
            fan_in = np.prod(tree.shape[-4:-1]) if len(tree.shape) > 3 else 8
            value = rng.normal(size=tree.shape) / np.sqrt(fan_in)
        else:
            sign = rng.choice([-1.0, 1.0], tree.shape)
            value = sign * rng.uniform(0.2, 0.6, tree.shape)
        return np.asarray(value, np.float32)

    return fill(shapes)


def relu(x):
    return np.maximum(x, 0.0)


def conv3x3(x, kernel, bias=None, padding="zero"):
    """Cross-correlation plane by plane; `reflect` does not repeat the edge."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    mode = "constant" if padding == "zero" else "reflect"
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
    n, h, w, channels = x.shape
    out = np.zeros((n, h, w, kernel.shape[-1]))
    for image in range(n):
        for o in range(kernel.shape[-1]):
            for i in range(channels):
                plane = padded[image, :, :, i]
                out[image, :, :, o] += correlate2d(plane, kernel[:, :, i, o], "valid")
    return out if bias is None else out + np.asarray(bias, np.float64)


def conv(p: Params, x, padding="zero"):
    return conv3x3(x, p["kernel"], p["bias"], padding)


def dense(p: Params, x):
    """1x1 convolution."""
    return x @ np.asarray(p["kernel"], np.float64) + np.asarray(p["bias"], np.float64)


# --- RCAN blocks ----------------------------------------------------------------


def rcab(p: Params, x):
    y = conv(p["conv2"], relu(conv(p["conv1"], x)))
    means = y.mean(axis=(1, 2))
    gate = expit(dense(p["gate"]["up"], relu(dense(p["gate"]["down"], means))))
    return x + y * gate[:, None, None, :]


def layer(tree, index: int):
    """One layer's parameters out of a scanned stack."""
    if isinstance(tree, dict):
        return {key: layer(value, index) for key, value in tree.items()}
    return tree[index]


def residual_group(p: Params, x):
    stack = p["rcabs"]["rcab"]
    y = x
    for i in range(len(stack["conv1"]["bias"])):
        y = rcab(layer(stack, i), y)
    return x + conv(p["conv"], y)


def pixel_shuffle(x, r: int):
    """Channel (i * r + j) * C + c of a pixel is channel c of its sub-pixel (i, j)."""
    n, h, w, channels = x.shape
    c = channels // (r * r)
    out = np.zeros((n, h * r, w * r, c))
    for i in range(r):
        for j in range(r):
            first = (i * r + j) * c
            out[:, i::r, j::r, :] = x[:, :, :, first : first + c]
    return out


def upsampler(p: Params, x, scale: int):
    for i, r in enumerate({2: [2], 3: [3], 4: [2, 2]}[scale]):
        x = pixel_shuffle(conv(p[f"conv{i + 1}"], x), r)
    return x


# --- Attention ------------------------------------------------------------------


def dual_frequency_weights(d1, d2, axis_name: str):
    """Eq. 6, scaled to a mean weight of 1."""
    logits = d1 * d2
    n, h, w, c = logits.shape
    if axis_name == "spatial":
        flat = softmax(logits.reshape(n, h * w, c), axis=1) * (h * w)
        return flat.reshape(n, h, w, c)
    if axis_name == "width":
        return softmax(logits, axis=2) * w
    return softmax(logits, axis=3) * c


def dfab(p: Params, x, axis_name: str):
    """Eq. 6 and 7; the block returns D + E."""
    d = rcab(p["rcab2"], rcab(p["rcab1"], x))
    c = x.shape[-1]
    kernel, bias = p["conv123"]["kernel"], p["conv123"]["bias"]
    d1, d2, d3 = (
        conv3x3(d, kernel[..., k * c : (k + 1) * c], bias[k * c : (k + 1) * c])
        for k in range(3)
    )
    return d + float(p["delta"]) * dual_frequency_weights(d1, d2, axis_name) * d3


def dfag(p: Params, x, axis_name: str):
    y = x
    for i in range(len(p) - 1):
        y = dfab(p[f"dfab{i + 1}"], y, axis_name)
    return x + conv(p["conv"], y)


def harris(plane, k: float = 0.04):
    """Harris response of one [H, W] plane, borders reflected at both filters.

    In units of the plain Sobel kernel, that is without OpenCV's scale.
    """
    plane = np.pad(np.asarray(plane, np.float64), 1, mode="reflect")
    sobel = np.outer([1.0, 2.0, 1.0], [-1.0, 0.0, 1.0])
    dx = correlate2d(plane, sobel, "valid")
    dy = correlate2d(plane, sobel.T, "valid")

    def box(product):
        return correlate2d(np.pad(product, 1, mode="reflect"), np.ones((3, 3)), "valid")

    a, b, c = box(dx * dx), box(dx * dy), box(dy * dy)
    return a * c - b * b - k * (a + c) ** 2


def corner_mask(x, gamma: float):
    """The mask of Eq. 8, after checking that no pixel is a matter of rounding."""
    mask = np.zeros(x.shape)
    for image in range(x.shape[0]):
        for c in range(x.shape[3]):
            response = harris(x[image, :, :, c])
            peak = response.max()
            if peak > 0.0:
                assert np.min(np.abs(response / peak - gamma)) > 1e-5
                mask[image, :, :, c] = response > gamma * peak
    return mask


def square_means(image, side: int):
    """Means [K, C] of an image [H, W, C] over squares, cut off at its far edges."""
    h, w, c = image.shape
    means = [
        image[y : y + side, x : x + side].reshape(-1, c).mean(axis=0)
        for y in range(0, h, side)
        for x in range(0, w, side)
    ]
    return np.stack(means)


def position_attention(x, mode: str, pool: int = 1):
    """The sum of Eq. 11 with the whole matrix of Eq. 10, keys over squares."""
    n, h, w, c = x.shape
    out = np.zeros((n, h * w, c))
    for image in range(n):
        wide = np.asarray(x[image], np.float64)
        keys = square_means(wide, pool)
        gram = wide.reshape(h * w, c) @ keys.T
        out[image] = softmax(gram, axis=None if mode == "joint" else 1) @ keys
    return out.reshape(x.shape)


def channel_attention(x, mode: str):
    """The sum of Eq. 13 with the C x C matrix of Eq. 12, Gram divided by N."""
    n, h, w, c = x.shape
    out = np.zeros((n, h * w, c))
    for image in range(n):
        f = np.asarray(x[image], np.float64).reshape(h * w, c)
        weights = softmax(f.T @ f / (h * w), axis=None if mode == "joint" else 1)
        for channel in range(c):
            out[image, :, channel] = f @ weights[channel]
    return out.reshape(x.shape)


def cea(p: Params, x, gamma: float, position: str, channel: str, pool: int = 1):
    """Eq. 8 to 13 and the last 1x1 convolution."""
    f_b = dense(p["conv_in"], x)
    b = dense(p["conv_corner"], f_b)
    corner = float(p["beta"]) * b * corner_mask(f_b, gamma) + f_b
    pos = float(p["position_scale"]) * position_attention(f_b, position, pool) + f_b
    chan = float(p["channel_scale"]) * channel_attention(f_b, channel) + f_b
    return dense(p["conv_out"], corner + pos + chan)


# --- Fusion layer and whole networks --------------------------------------------


def mean_activity(features):
    """Eq. 14: l1 norm over channels, mean over the 3x3 pixels inside the image."""
    l1 = np.abs(np.asarray(features, np.float64)).sum(axis=-1)
    out = np.zeros_like(l1)
    for y in range(l1.shape[1]):
        for x in range(l1.shape[2]):
            window = l1[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            out[:, y, x] = window.mean(axis=(1, 2))
    return out


def infrared_weight(ir, vis, damping=0.0):
    """Eq. 15, with 1/2 where both activities vanish, and a constant added to each."""
    m_ir, m_vis = mean_activity(ir) + damping, mean_activity(vis) + damping
    out = np.full(m_ir.shape, 0.5)
    alive = m_ir + m_vis > 0
    out[alive] = m_ir[alive] / (m_ir + m_vis)[alive]
    return out


def fuse_features(ir, vis, damping=0.0):
    """Eq. 16."""
    weight = infrared_weight(ir, vis, damping)[..., None]
    return weight * ir + (1.0 - weight) * vis


def teacher(p: Params, ir, vis, alpha: float, damping: float = 0.0):
    """Returns the image, F_ir, F_vis, F_f and the decoder's three hidden outputs."""

    def encode(image):
        features = relu(conv(p["encoder"]["conv1"], image, "reflect"))
        for i in (2, 3, 4):
            new = relu(conv(p["encoder"][f"conv{i}"], features, "reflect"))
            features = np.concatenate([features, new], axis=-1)
        return features

    f_ir, f_vis = encode(ir), encode(vis)
    white = np.abs(encode(np.ones((1, 5, 5, 1)))[0, 2, 2]).sum()
    fused = fuse_features(f_ir, f_vis, damping * white)
    x = f_ir + alpha * f_vis + fused  # Eq. 5
    hidden = []
    for i in (1, 2, 3):
        x = relu(conv(p["decoder"][f"conv{i}"], x, "reflect"))
        hidden.append(x)
    image = conv(p["decoder"]["conv4"], x, "reflect")
    return image, f_ir, f_vis, fused, *hidden


def keys_cubic(t):
    """Keys' cubic kernel, a = -1/2."""
    t = np.abs(t)
    near = 1.5 * t**3 - 2.5 * t**2 + 1.0
    far = -0.5 * t**3 + 2.5 * t**2 - 4.0 * t + 2.0
    return np.where(t < 1.0, near, np.where(t < 2.0, far, 0.0))


def bicubic(x, scale: float):
    """Upsampling by weights that are renormalised where the border cuts them.

    A half of a pixel too many is dropped.
    """

    def matrix(size):
        count = int(np.ceil(size * scale - 0.5))
        centres = (np.arange(count) + 0.5) / scale - 0.5
        weights = keys_cubic(centres[:, None] - np.arange(size)[None, :])
        return weights / weights.sum(axis=1, keepdims=True)

    rows, cols = matrix(x.shape[1]), matrix(x.shape[2])
    return np.einsum("yh,xw,nhwc->nyxc", rows, cols, np.asarray(x, np.float64))


def fusion_part(p: Params, ir, vis, config):
    """Both branches, the fusion layer and the decoder: F_f^s and its parts."""
    branch = p["ir"]
    f_ir = residual_group(branch["rg"], conv(branch["conv"], ir))
    if config.dfag:
        f_ir = dfag(branch["dfag"], f_ir, config.dfa_softmax)
    branch = p["vis"]
    f_vis = conv(branch["conv"], vis)
    f_vis = residual_group(branch["rg2"], residual_group(branch["rg1"], f_vis))
    if config.cea:
        h, w = vis.shape[1:3]
        pools = [config.position_pool * 2**i for i in range(9)]
        squares = [np.ceil(h / pool) * np.ceil(w / pool) for pool in pools]
        pool = pools[np.argmax(np.array(squares) <= (config.position_keys or np.inf))]
        f_vis = cea(
            branch["cea"],
            f_vis,
            config.corner_gamma,
            config.position_softmax,
            config.channel_softmax,
            pool,
        )
    x = fused = fuse_features(f_ir, f_vis)
    for i in range(4):
        x = relu(conv(p[f"decoder{i + 1}"], x))
    return x, f_ir, f_vis, fused


def student(p: Params, ir, vis, config, scale: float, upsampler=upsampler):
    """Returns the image and the outputs that a loss or a user may look at, by name."""
    decoded, f_ir, f_vis, fused = fusion_part(p["fusion"], ir, vis, config)
    sr = p["sr"]
    head = y = conv(sr["head"], decoded)
    for i in range(config.sr_groups):
        y = residual_group(sr[f"rg{i + 1}"], y)
    up = upsampler(sr["upsampler"], head + conv(sr["body"], y), scale)
    tail = conv(sr["tail"], up)
    image = conv(sr["image"], tail)
    if config.global_skip:
        alpha = config.skip_alpha
        weighted = fuse_features(ir, vis, config.skip_damping)
        mixed = (ir + alpha * vis + weighted) / (2 + alpha)
        image = image + bicubic(mixed, scale)
    return image, {
        "branch_ir": f_ir,
        "branch_vis": f_vis,
        "fused": fused,
        "decoded": decoded,
        "upsampled": up,
        "tail": tail,
    }
