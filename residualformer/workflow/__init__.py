"""Stages: those that have run, with which options and inputs, and those that run next."""
