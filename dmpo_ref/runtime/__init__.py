"""What a training run needs besides the method: its files, its state, its processes."""
