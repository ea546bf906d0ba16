"""heartloop: an empathetic dialogue agent and the world that trains it."""
