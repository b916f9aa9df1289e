"""Quantized matrices of a checkpoint: how each is stored, and its dequantized values."""
