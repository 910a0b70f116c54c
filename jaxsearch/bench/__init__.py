"""Comparisons that the project makes of itself and writes down, without a figure typed by hand."""

from jaxsearch.bench.recipes import recipes

__all__ = ['recipes']
