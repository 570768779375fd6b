"""How a run is laid out over devices. The networks know nothing of it."""
