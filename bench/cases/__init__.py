"""What is measured, family by family: ``cases(scale, inductor)`` of each module."""
