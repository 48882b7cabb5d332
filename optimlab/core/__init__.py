"""What a rule is applied to and what it becomes: lists, symbols, programs; groups, checkpoints."""
