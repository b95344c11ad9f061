"""Option files: their schema, reading and checking, and the registries of the components that they name."""
