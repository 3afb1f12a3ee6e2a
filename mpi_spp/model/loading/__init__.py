"""From files on disk to weights: names, formats, sizes."""
