"""Loading a model, talking to it, and finding what writes into its residual stream."""
