"""``make evidence``: runs examples/evidence, and writes figures with intervals, answers, a picture, and where the time goes."""
