"""Making trained weights cheaper: magnitude pruning and low-rank factors (AmNets, section 3)."""
