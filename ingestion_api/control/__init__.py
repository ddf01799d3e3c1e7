"""The control plane: one resource a file, each with its body, its view and its routes."""
