"""The ways to shrink a weight, one method a file; each is known by existing."""
