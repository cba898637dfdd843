"""The bundled test bed: a drawn world whose objects are known, its data sets, and a small CLIP trained on it."""
