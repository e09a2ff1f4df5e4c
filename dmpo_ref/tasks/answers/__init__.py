"""Reading answers: what is marked in a text, LaTeX, numerals, arithmetic, equality. Text only."""
