"""Custom data: its layouts, its splits and the configuration chosen for it."""
