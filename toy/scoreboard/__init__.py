"""`dmpo scoreboard`: objectives compared where the distribution they aim at is known exactly."""
