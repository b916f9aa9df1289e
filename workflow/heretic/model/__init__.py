"""Model loading, generation, and identification of the residual stream's writers."""
