"""What a reader looks at: inspection, comparison, contracts."""
