"""Two optimizers through one scenario, step by step."""
