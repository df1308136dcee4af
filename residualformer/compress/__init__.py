"""Compression of trained weights: magnitude pruning and low-rank factors (AmNets, section 3)."""
