"""heartloop: an empathetic dialogue agent and the world that trains it."""

from heartloop import env as _env  # registers the Gymnasium environment

del _env
