"""The experiments behind the README's and the book's tables."""
