"""The figures of the bundled base model."""
