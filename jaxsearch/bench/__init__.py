"""Comparisons that the project makes and writes down, without a figure typed by hand."""
