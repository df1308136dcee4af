"""Saved models: loading, saving, parameters and cost."""
