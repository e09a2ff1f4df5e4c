"""What a run will cost, computed from its config alone."""
