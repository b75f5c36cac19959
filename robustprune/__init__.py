"""Find, train, measure and certify sparse networks that stay correct under attack."""

__version__ = "0.1.0"
