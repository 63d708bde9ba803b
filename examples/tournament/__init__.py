"""The main job: a small language model judges answers pairwise, the tournament ranks them. Run ``python -m examples.tournament --help``."""
