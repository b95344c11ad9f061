"""What a YAML file may say: sections, reading, checking, and the registries that names are looked up in."""
