"""Answers of a policy to test items, the files they are kept in, both gradings of such files, and the table of runs."""
