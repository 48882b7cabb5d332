"""What is checked on two processes at once."""
