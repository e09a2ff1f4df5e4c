"""What a training run needs beside the method: its files, its state, its processes."""
