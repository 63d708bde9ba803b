"""Trainers on this package's ops. Each module imports its host only when it is asked to patch it."""
