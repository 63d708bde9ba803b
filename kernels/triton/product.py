"""C = A B, or C + A B, in float32 with exact products and one order along the inner size: a row of C has the same bits whatever the other rows."""

from __future__ import annotations

import triton
import triton.language as tl

from rrm_core._triton.common import short_product
from rrm_core._triton.configs import product_config


@triton.jit(do_not_specialize=["m", "k"])
def _product_kernel(
    a_ptr, b_ptr, c_ptr, m, n, k, stride_am, stride_ak, stride_bk, stride_bn, stride_c,
    ACCUMULATE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    columns = tl.cdiv(n, BLOCK_N)
    task = tl.program_id(0).to(tl.int64)
    o_m, o_n = (task // columns) * BLOCK_M + tl.arange(0, BLOCK_M), (task % columns) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_k = tl.arange(0, BLOCK_K)
    m_m, m_n = o_m < m, o_n < n
    p_a = a_ptr + tl.where(m_m, o_m, 0)[:, None] * stride_am + o_k[None, :] * stride_ak
    p_b = b_ptr + o_k[:, None] * stride_bk + tl.where(m_n, o_n, 0)[None, :] * stride_bn
    c = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, k, BLOCK_K):
        m_k = start + o_k < k
        a = tl.load(p_a, mask=m_k[None, :], other=0.0).to(tl.float32)
        b = tl.load(p_b, mask=m_k[:, None], other=0.0).to(tl.float32)
        c += short_product(a, b)
        p_a += BLOCK_K * stride_ak
        p_b += BLOCK_K * stride_bk
    p_c = c_ptr + o_m[:, None] * stride_c + o_n[None, :]
    m_c = m_m[:, None] & m_n[None, :]
    if ACCUMULATE:
        c += tl.load(p_c, mask=m_c, other=0.0)
    tl.store(p_c, c, mask=m_c)


def add_product(a, b, c, accumulate=True):
    """c [m, n] float32 (+)= a [m, k] @ b [k, n], any strides but c's columns."""
    (m, k), n = a.shape, b.shape[1]
    if m and n:
        config = product_config()
        tasks = triton.cdiv(m, config["BLOCK_M"]) * triton.cdiv(n, config["BLOCK_N"])
        _product_kernel[(tasks,)](
            a, b, c, m, n, k, *a.stride(), *b.stride(), c.stride(0), ACCUMULATE=accumulate, **config, enable_fp_fusion=True,
        )  # fmt: skip
    return c
