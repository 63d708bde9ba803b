"""What ``make evidence`` (examples/evidence) measured: figures with intervals, questions, report, picture, and where the time goes."""
