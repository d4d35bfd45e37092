"""HTTP content: images and their indexes."""
