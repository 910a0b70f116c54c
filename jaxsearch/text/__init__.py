"""Tokens, the bytes they stand for, the stops found in them, and how answers are compared."""
