"""``make demo``: the tournament of examples/tournament, or with ``--judge`` one of the published judge systems."""

from __future__ import annotations

import argparse
import importlib
import sys

from examples.tournament import data, judge
from examples.tournament.__main__ import main as tournament

JUDGES = {"rrm": "rrm", "rm-r1": "rm_r1", "deepseek-grm": "deepseek_grm", "j1": "j1"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples", add_help=False, allow_abbrev=False)
    parser.add_argument("--judge", choices=list(JUDGES))
    options, rest = parser.parse_known_args()
    if options.judge is None:
        tournament(rest)
    else:
        importlib.import_module(f"examples.judges.{JUDGES[options.judge]}").main(rest)


if __name__ == "__main__":
    try:
        main()
    except (data.DataError, judge.ModelError) as error:
        sys.exit(f"error: {error}")
