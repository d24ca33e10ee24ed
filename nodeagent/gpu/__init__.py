"""The GPUs of the node: the seam to the driver, and hardware that is simulated."""
