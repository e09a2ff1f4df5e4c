"""Samplers: fill the masked positions of a response, a bounded number of steps, whole batches at a time."""
