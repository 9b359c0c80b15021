"""Floor 1: what every wing stands on. Rooms import only downwards (tests/house keeps the order)."""
