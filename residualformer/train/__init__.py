"""Training: the loop, its phases, warm starts and optimizers."""
