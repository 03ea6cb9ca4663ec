"""Selection where people already train: a module for each framework, which imports it only when it is imported itself."""
