"""Directional ablation of open-weight language models, phase by phase."""
