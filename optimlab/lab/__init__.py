"""The tools for any ``torch.optim.Optimizer``, and what they share.

None of them changes a bit of what it looks at. ``compare`` (bits, digests, what can be seen of an
optimizer), ``lockstep`` (two optimizers through one scenario) and ``record`` (the operations of a
step, written down with names) serve the others.
"""
