"""``bev-doctor``: what is installed, what works, and what to do about what does not.

Imports nothing of the other packages until a check asks for it, so that it also runs where they cannot be imported.
"""

from .finding import Finding, State

__all__ = ["Finding", "State"]
