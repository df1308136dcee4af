"""Code for speed alone: each fast path beside its plain reference, with one dispatcher."""
