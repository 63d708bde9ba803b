"""Microbenchmarks and static reports: what the kernels cost, beside floors and peers of the same run."""
