"""Every setting, its meaning, the rules that read it, and the resolver of its sources.

Modules are imported by name, so that a phase depends only on those that it uses.
"""
