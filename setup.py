"""Everything that is declared stands in setup.cfg."""

from setuptools import setup

setup()
