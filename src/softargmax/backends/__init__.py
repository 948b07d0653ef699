"""An array -> where it lives: one file per array library. Each says which kernels stand in for which definitions."""
