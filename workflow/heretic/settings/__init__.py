"""Definitions of all settings, the rules that read them, and the resolver of their sources.

Import the modules by name, so that a phase depends only on the ones it uses.
"""
