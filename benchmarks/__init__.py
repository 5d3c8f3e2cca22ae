"""What measures speed, beside named peers, and its recorded results (`results/`)."""
