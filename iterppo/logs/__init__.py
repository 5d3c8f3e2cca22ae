"""Logs: where they lie, how a line is read, and how messages become turns."""
