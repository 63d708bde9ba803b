"""Every published judge system on the demo model, a short program each: ``make demo ARGS="--judge rrm"``, or ``python -m examples.judges.rrm``."""
