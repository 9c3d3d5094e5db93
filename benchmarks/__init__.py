"""Ratios against a plain reference, measured in one run; the last line is one JSON object."""
