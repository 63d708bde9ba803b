"""The main job: a small language model judges answers, in pairs and alone; tournaments rank them. Run ``python -m examples.tournament --help``."""
