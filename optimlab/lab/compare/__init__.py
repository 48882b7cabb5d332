"""Comparing as integers: tensors, what can be seen of an optimizer, digests."""
