"""Intervals and comparisons."""

FEWEST_CONVERSATIONS = 20
"""Of fewer, resamples repeat each other, and an interval is too narrow to be believed."""
