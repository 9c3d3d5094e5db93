"""The search over recipes. Knows nothing of tensors."""
