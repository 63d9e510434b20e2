"""Searches: only HOW the orbits of a class are ranked. Each gives the same totals."""
