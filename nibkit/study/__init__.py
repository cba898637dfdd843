"""What single notebooks ask, one module a question."""
