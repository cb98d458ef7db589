"""The machine: compiler, devices, memory, signals, terminal."""
