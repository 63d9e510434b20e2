"""Searches: only HOW the orbits of a class are ranked. Each gives the same output."""

from __future__ import annotations

from shortcut_audit.measures.searches.exact import ExactSearch
from shortcut_audit.measures.searches.hierarchical import HierarchicalSearch
from shortcut_audit.measures.searches.interface import Search
from shortcut_audit.measures.searches.learned import LearnedSearch
from shortcut_audit.measures.searches.screened import ScreenedSearch
from shortcut_audit.results.settings import SearchName

__all__ = ["SEARCHES"]

SEARCHES: dict[SearchName, Search] = {
    "exact": ExactSearch(),
    "screened": ScreenedSearch(),
    "hierarchical": HierarchicalSearch(),
    "learned": LearnedSearch(),
}
