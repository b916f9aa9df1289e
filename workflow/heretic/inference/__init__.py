"""Prefill and greedy decoding on transformers' cache classes, for the same prompts many times."""
