"""Prefill and greedy decoding on transformers' cache classes, repeated for the same prompts."""
