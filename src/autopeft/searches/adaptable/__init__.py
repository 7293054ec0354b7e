"""The Adaptable Adapter: switches that are learnt with the modules."""

from autopeft.searches.adaptable.sampler import MEMBERS

__all__ = ["MEMBERS"]
