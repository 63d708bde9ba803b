"""Triton bodies, installed as ``rrm_core._triton``: kernels and their launchers.

A launcher takes its op's arguments and returns its results. It never looks at values, so that it runs alike on CUDA tensors, on CPU tensors under the
interpreter, and under a driver that only compiles.
"""
