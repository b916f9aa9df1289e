"""Prompt sets: their sources, their rows, and the bundle of all sets of a run.

Modules are imported by name, so that a phase depends only on those it uses.
"""
