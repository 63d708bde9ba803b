"""Small functions that several families' kernels use. Written out, because libdevice differs between targets and is missing in the interpreter."""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LOG_2 = tl.constexpr(0.6931471805599453)
# Stands for -inf inside a kernel: products with 0 and differences stay finite. Logits below it count as -inf.
LOWEST = tl.constexpr(-1e30)
INFINITY = tl.constexpr(float("inf"))


@triton.jit
def maximum(a, b):
    """NaN where either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.constexpr_function
def log2(power):
    return power.bit_length() - 1


@triton.jit
def lane_sum(x):
    """x [rows, lanes] -> [rows], neighbours first. ``tl.sum`` adds in the order in which threads happen to hold x, which follows the strides and the
    alignment of what was loaded: bits would depend on where a row lies."""
    for _ in tl.static_range(log2(x.shape[1])):
        x = tl.sum(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)), 2)
    return tl.reshape(x, (x.shape[0],))


@triton.jit
def ordered_sum(x):
    """x [lanes] -> a number, as ``lane_sum``."""
    return tl.sum(lane_sum(x[None, :]), 0)


@triton.jit
def short_product(a, b):
    """a b, exact products added up in float32, to be added to others of its kind: the error of one chain as long as the inner size grows with its
    root, and tensor cores cut digits off at every step. The odd argument keeps the compiler from making it one chain again."""
    return tl.dot(a, b, input_precision="ieee", max_num_imprecise_acc=1 << 30)


@triton.jit
def exponent_scale(temperature):
    """log2(e) / T: exp(x / T) = exp2(x c)."""
    return (tl.zeros_like(temperature) + LOG2_E) / temperature


@triton.jit
def log1p(x):
    """log(1 + x) for x >= 0 to about one unit in the last place: mantissa and exponent of 1 + x, and what its rounding lost."""
    u = 1.0 + x
    lost = tl.div_rn(x - (u - 1.0), u)
    bits = u.to(tl.int32, bitcast=True)
    exponent = ((bits >> 23) - 127).to(tl.float32)
    mantissa = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    large = mantissa > 1.4142135
    exponent = tl.where(large, exponent + 1.0, exponent)
    f = tl.where(large, 0.5 * mantissa, mantissa) - 1.0
    s = tl.div_rn(f, 2.0 + f)  # log(1 + f) = 2 atanh(s)
    w = s * s
    series = 2.0 * s + s * w * (0.6666667 + w * (0.4 + w * (0.2857143 + w * 0.22222222)))
    value = exponent * 0.693359375 + (series + (lost - exponent * 2.12194440e-4))
    return tl.where(u < INFINITY, value, u)


@triton.jit
def complement(log2_p):
    """1 - p for p at most 1, to a few units in the last place: -(exp(u) - 1) by its series near u = log(p) = 0."""
    u = log2_p * LOG_2
    series = -u * (1.0 + u * (0.5 + u * (0.16666667 + u * (4.1666668e-2 + u * (8.3333338e-3 + u * (1.3888889e-3 + u * 1.9841270e-4))))))
    return tl.where(log2_p > -0.5, series, 1.0 - tl.exp2(log2_p))


@triton.jit
def tanh(x):
    """To a few units in the last place, relative: x + x^3 P(x^2) near 0 (minimax, 4e-9), (1 - e) / (1 + e) with e = exp(-2|x|) elsewhere."""
    w = x * x
    p = -0.33333284 + w * (0.13331491 + w * (-5.3743493e-2 + w * (2.0650575e-2 + w * -5.7170326e-3)))
    near = x + x * w * p
    magnitude = tl.abs(x)
    e = tl.exp2(magnitude * (-2.0 * LOG2_E))
    far = tl.div_rn(1.0 - e, 1.0 + e)
    return tl.where(magnitude < 0.625, near, tl.where(x < 0, -far, far))


@triton.jit
def softcapped(x, softcap, HAS_SOFTCAP: tl.constexpr):
    if HAS_SOFTCAP:
        x = softcap * tanh(tl.div_rn(x, tl.zeros_like(x) + softcap))
    return x


@triton.jit
def softcap_slope(x, softcap):
    """Of ``softcapped`` at x, 1 - tanh^2: with its digits where tanh is near 1."""
    x = tl.div_rn(x, tl.zeros_like(x) + softcap)
    near = tanh(x)
    e = tl.exp2(tl.abs(x) * (-2.0 * LOG2_E))
    below_1 = tl.div_rn(2.0 * e, 1.0 + e)
    return tl.where(tl.abs(x) < 0.625, 1.0 - near * near, below_1 * (2.0 - below_1))


@triton.jit
def exp(x):
    return tl.exp2(x * LOG2_E)
