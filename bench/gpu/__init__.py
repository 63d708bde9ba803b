"""What can be said of the Triton kernels without a GPU: they are compiled for it, and read."""
