"""Sizes of blocks and numbers of warps. What a row's bits depend on (column blocks, the order along the hidden size, how a block's sum is laid out
over threads) follows from the dtype alone, never from the number of rows."""

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

# Stored logits: columns per block.
CHUNK = 16384

# Merging a row's blocks.
FINISH = {"BLOCK": 256, "num_warps": 1}

# A row's own ids at a time, in backward.
NAMES = {"BLOCK": 32, "num_warps": 1}

# The labels' own logits: forms and hidden elements of one program at a time.
LABELS = {"BLOCK_K": 8, "BLOCK_H": 256, "num_warps": 4}

# Gradients from hidden states: tokens and rows whose dL/dlogits [PASS_ROWS, PIECE] is at hand at a time (32 MB); PIECE is part of a row's bits.
PIECE = 4096
PASS_ROWS = 2048
GRADIENT_ROWS = {"BLOCK_N": 32, "num_warps": 8}  # the formula needs registers

# Group advantages: groups of up to SHORT rows, GROUPS of them at a time, LANES rows of each; of a longer one, by itself, WIDE rows.
# All but GROUPS are part of a group's bits.
GROUP_TILES = {"GROUPS": 16, "LANES": 16, "SHORT": 128, "WIDE": 1024, "num_warps": 4}

# Whitening: numbers of one program, part of the bits.
WHITEN = {"BLOCK": 4096, "num_warps": 8}

# Loss from hidden states: logits that are stored at a time (256 MB).
LOGITS_AT_HAND = 2**26

# Policy loss: tokens of one program, part of the bits.
LOSS_CHUNK = 8192


def target() -> GPUTarget:
    """The GPU that a launch would run on; any will do where there is none (interpreter)."""
    try:
        found: GPUTarget = driver.active.get_current_target()
    except RuntimeError:
        found = GPUTarget("cuda", 80, 32)
    return found


def stream_config(dtype: torch.dtype) -> dict[str, int]:
    """Stored logits: LANES go through a block side by side, each with VECTOR columns (the 128 bits a thread loads at once) of either of two tiles."""
    return {"CHUNK": CHUNK, "LANES": 128, "VECTOR": 16 // dtype.itemsize, "num_warps": 128 // target().warp_size}


def product_config() -> dict[str, int]:
    """Exact float32 products. BLOCK_K is part of the bits."""
    rows = 64 if target().backend == "hip" else 128  # registers
    return {"BLOCK_M": rows, "BLOCK_N": 64, "BLOCK_K": 16, "num_warps": 8, "num_stages": 2}


def loss_config() -> dict[str, int]:
    """BLOCK tokens at a time, four (128 bits) of a thread: part of the bits too."""
    return {"CHUNK": LOSS_CHUNK, "BLOCK": 1024, "num_warps": 256 // target().warp_size}


def linear_config(dtype: torch.dtype, hidden_size: int) -> dict[str, int | bool]:
    """Products of hidden states and a head. One shape per dtype: with another the compiler would lay out, and so sum, a block in another order."""
    stages = 2 if target().backend == "hip" else 4  # 64 KB of shared memory there
    if dtype == torch.float32:  # exact products: no tensor cores, so small tiles
        config = {"BLOCK_V": 128, "BLOCK_H": 32, "BLOCK_N": 64, "num_warps": 8, "num_stages": min(3, stages)}
    else:
        config = {"BLOCK_V": 128, "BLOCK_H": 64, "BLOCK_N": 64, "num_warps": 8, "num_stages": stages}
    return {**config, "EVEN_HIDDEN": hidden_size % int(config["BLOCK_H"]) == 0}
