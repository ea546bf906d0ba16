"""heartloop: an empathetic dialogue agent and the world that trains it.

Importing it registers the Gymnasium environment "heartloop/EmpatheticDialogue-v0".
"""

from heartloop import env as _env

__all__ = ["__version__"]
__version__ = "0.1.0"

del _env
