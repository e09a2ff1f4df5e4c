"""Reading answers: marked parts of a text, LaTeX, numerals, arithmetic, equality. Text only."""
