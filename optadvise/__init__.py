"""Which optimizer, with which numbers, will it fit, and what does it cost here?"""

__version__ = "0.1.0"
