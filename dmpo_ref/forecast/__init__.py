"""What a run will cost, from its config alone, and measurements of this library."""
