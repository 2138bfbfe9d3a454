"""Golden file of the block types: python make_blocks.py   (needs pip install gguf safetensors numpy; made with gguf 0.19)

<type>.bytes   [2 * 256 elements as stored] random, with scales a model could have (one of them a subnormal half)
<type>.values  what the gguf package's own dequantisers make of them
x, <type>.written   512 values and what its quantisers make of them, where rounding to nearest defines the result"""

import os

import gguf
import numpy as np
from safetensors.numpy import save_file

# Offsets of a block's halves.
HALVES = {
    "q8_0": [0], "q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "iq4_nl": [0], "iq4_xs": [0],
    "q2_k": [80, 82], "q3_k": [108], "q4_k": [0, 2], "q5_k": [0, 2], "q6_k": [208],
}
WRITTEN = ["q8_0", "q4_0", "q5_0", "q5_1"]


def make_bytes(rng, name):
    length, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name.upper()]]
    blocks = rng.integers(0, 256, (512 // length, size), dtype=np.uint8)
    for at in HALVES[name]:
        half = (0.02 * rng.standard_normal(len(blocks))).astype(np.float16)
        half[-1] = 3e-6
        blocks[:, at : at + 2] = half.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


def main():
    rng = np.random.default_rng(20)
    out = {}
    for name in HALVES:
        data = make_bytes(rng, name)
        out[name + ".bytes"] = data
        out[name + ".values"] = gguf.dequantize(data, gguf.GGMLQuantizationType[name.upper()]).astype(np.float32)
    x = rng.standard_normal(512).astype(np.float32)
    x[32:64] = 0
    x[64:96] *= 1e-3
    x[96:128] = 0.25
    x[130] = -7
    x[161] = 60000
    out["x"] = x
    for name in WRITTEN:
        out[name + ".written"] = gguf.quantize(x, gguf.GGMLQuantizationType[name.upper()]).reshape(-1)
    save_file(out, os.path.join(os.path.dirname(os.path.abspath(__file__)), "blocks.safetensors"))


if __name__ == "__main__":
    main()
