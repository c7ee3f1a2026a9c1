"""Measures the real system: ``python -m bench``, see ``--help``."""
