"""What a rule is applied to, and what it becomes: tensors, lists, symbols, programs; groups and checkpoints."""
