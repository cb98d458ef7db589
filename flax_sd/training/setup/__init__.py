"""From a model and a config to what is trained."""
