"""Build of the compiled extension coophash._C."""

from setuptools import setup

setup()
