"""How a run is described, where it is kept, and how it is taken up again."""
