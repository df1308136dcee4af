"""The Chinese translation of AN4."""
