"""``make gpu-report``: see bench/gpu/report.py."""

import argparse
import warnings

from bench.gpu.compiler import TARGETS
from bench.gpu.report import write


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="Predicted figures of every Triton kernel, compiled without a GPU.")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--no-peers", action="store_true", help="our kernels alone")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")  # others leave it to Triton's default, as they run
    for path in write(arguments.targets, not arguments.no_peers):
        print(path)


if __name__ == "__main__":
    main()
