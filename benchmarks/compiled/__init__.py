"""Figures of the compiler: programs are compiled and not run."""
