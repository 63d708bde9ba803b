"""What an installed wheel has to do, without sources and compiler: ``python smoke.py``. Run by test_build.py in fresh environments."""

import importlib
import importlib.util
import pkgutil
import shutil
import warnings
from pathlib import Path

import torch

with warnings.catch_warnings():
    warnings.simplefilter("error")
    import rrm_core
    from rrm_core._library import OPS

assert not [tool for tool in ("c++", "g++", "clang++", "cmake", "ninja", "make") if shutil.which(tool)]
package = Path(rrm_core.__file__).parent
info = rrm_core.backend_info()
assert str(info["cpu"]).startswith("native/"), info
assert info["library"] == str(package / "librrm_cpu.so"), info

HIDDEN, WEIGHT, IDS = torch.randn(5, 24), torch.randn(100, 24), torch.tensor([0, 99, 3, -100, 7])
TOKENS = rrm_core.ScoreTokens({"A": [3, 70], "B": [64]}, values=[1.0, 0.0])
CALLS = {
    "token_logprobs": lambda impl: rrm_core.token_logprobs(HIDDEN @ WEIGHT.T, IDS, impl=impl),
    "linear_token_logprobs": lambda impl: rrm_core.linear_token_logprobs(HIDDEN, WEIGHT, IDS, impl=impl),
    "score_token_logprobs": lambda impl: rrm_core.score_token_logprobs(HIDDEN, WEIGHT, TOKENS, impl=impl),
    "score_token_logprobs_from_logits": lambda impl: rrm_core.score_token_logprobs_from_logits(HIDDEN @ WEIGHT.T, TOKENS, impl=impl),
}
native = sorted(name for name, op in OPS.items() if "cpu" in op.native_devices)
assert set(CALLS) <= set(native), native
for name, call in CALLS.items():
    torch.testing.assert_close(tuple(call("native")), tuple(call("reference")), msg=name)  # that it runs at all; accuracy is tested elsewhere
torch.library.opcheck(OPS["token_logprobs"].dispatched, (HIDDEN @ WEIGHT.T, IDS, None, -100))

wins = rrm_core.pairwise_wins([0, 1], [1, 2], [1.0, 1.0], num_candidates=3)
assert rrm_core.bradley_terry(wins).rating[0].argsort(descending=True).tolist() == [0, 1, 2]

bodies = importlib.import_module("rrm_core._triton")  # never Triton itself: that comes with the families
if importlib.util.find_spec("triton"):
    for module in pkgutil.iter_modules(bodies.__path__):
        importlib.import_module(f"rrm_core._triton.{module.name}")

print("version:", rrm_core.__version__)
print("backend:", info)
print("native:", *native)
