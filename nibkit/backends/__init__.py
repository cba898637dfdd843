"""One small file per library: each turns a library's CLIP into an image and a text tower."""
