"""Search spaces: the lattice, and the papers' spaces by name."""
