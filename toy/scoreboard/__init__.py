"""`dmpo scoreboard`: objectives compared on problems whose target distribution is known exactly."""
