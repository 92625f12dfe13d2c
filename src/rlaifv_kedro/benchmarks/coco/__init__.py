"""COCO's objects: the words that name them, and what is in each image."""
